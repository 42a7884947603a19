"""Notification of systemd through a real socket, and the end of a service."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.core.run_status import RunInfo, Status
from edge.pipeline.systemd import SystemdNotifier
from tests.conftest import Outcome


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "user@1000"))
        listener.settimeout(300)  # a busy machine takes long to start a service
        yield listener


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "int8", "test", "camera"))


def test_notifier_sends_ready_watchdog_status_and_stopping(
    notify_socket: socket.socket, status: Status
) -> None:
    environ = {"NOTIFY_SOCKET": notify_socket.getsockname(), "WATCHDOG_USEC": "300000"}
    now = [100.0]
    notifier = SystemdNotifier([status], environ, lambda: now[0])
    notifier.ready()
    status.set_state("running")
    status.report_fault("source", "unplugged")
    for _ in range(5):
        notifier.tick()
        now[0] += 0.06
    notifier.stopping()
    messages = [notify_socket.recv(1000).decode() for _ in range(6)]
    assert messages[0] == "READY=1"
    assert messages[-1] == "STOPPING=1"
    assert messages[1:5].count("WATCHDOG=1") == 3  # every 100 ms: three times per watchdog interval
    assert "STATUS=running, 0.0 fps, 0 frames, 0 dropped; source: unplugged" in messages


def test_notifier_sends_to_an_abstract_socket(status: Status) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0aerogaze-test-{os.getpid()}")
        listener.settimeout(5)
        SystemdNotifier([status], {"NOTIFY_SOCKET": f"@aerogaze-test-{os.getpid()}"}).ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000"}])
def test_notifier_ignores_a_missing_socket(status: Status, environ: dict[str, str]) -> None:
    notifier = SystemdNotifier([status], environ)
    for notify in (notifier.ready, notifier.tick, notifier.stopping):
        notify()


def test_notifier_sends_no_watchdog_message_for_another_process(
    notify_socket: socket.socket, status: Status
) -> None:
    environ = {"NOTIFY_SOCKET": notify_socket.getsockname(), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notifier = SystemdNotifier([status], environ)
    notifier.tick()
    notifier.stopping()
    assert [notify_socket.recv(100)[:7] for _ in range(2)] == [b"STATUS=", b"STOPPIN"]


def test_live_run_reports_stopping_when_its_source_ends(
    notify_socket: socket.socket, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.getsockname())
    assert command("run", "synthetic:7:64x64:5", "--realtime").code == 0
    messages = [notify_socket.recv(1000).decode()]
    while messages[-1] != "STOPPING=1":
        messages.append(notify_socket.recv(1000).decode())
    assert messages[0] == "READY=1"


def test_service_reports_its_state_and_ends_cleanly_on_sigterm(
    notify_socket: socket.socket, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'source = "synthetic:7:128x96:10000"\nrealtime = true\njsonl = "o.jsonl"\nmaps = "maps"\n'
    )
    environ = {**os.environ, "NOTIFY_SOCKET": notify_socket.getsockname(), "WATCHDOG_USEC": "600000"}
    arguments = [sys.executable, "-m", "edge.cli.main", "run", "--config", str(config), "--json"]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as service:
        try:
            messages = [notify_socket.recv(1000).decode()]
            # A busy machine may take longer for the frames than for the messages.
            while (
                messages.count("WATCHDOG=1") < 5
                or not messages[-1].startswith("STATUS=running, ")
                or len(list(tmp_path.rglob("*.png"))) < 5
            ):
                messages.append(notify_socket.recv(1000).decode())
            service.send_signal(signal.SIGTERM)
            out, _ = service.communicate(timeout=60)
        finally:
            service.kill()  # a failure would else wait for the service to end
    assert messages[0] == "READY=1"
    assert service.returncode == 0
    summary = json.loads(out)
    assert summary["interrupted"]
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == sorted(
        {json.loads(line)["frame"] for line in lines}
    )
    assert summary["frames"] == len(lines) == len(list((tmp_path / "maps").iterdir())) > 3
    notify_socket.settimeout(1)
    remaining = []
    try:
        while True:
            remaining.append(notify_socket.recv(1000).decode())
    except TimeoutError:
        pass
    assert "STOPPING=1" in remaining
