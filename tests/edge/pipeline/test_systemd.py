"""What systemd is told, through a real socket; and a service that is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.core.run_status import RunInfo, Status
from edge.pipeline.systemd import SystemdNotifier
from tests.conftest import Outcome


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        yield listener


@pytest.fixture
def status() -> Status:
    return Status(RunInfo("skd-64", "int8", "test", "camera"))


def test_ready_alive_state_and_stopping_are_told(listening: socket.socket, status: Status) -> None:
    notifier = SystemdNotifier(status, {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "300000"})
    notifier.ready()
    status.set_state("running")
    status.report_fault("source", "unplugged")
    for _ in range(5):
        notifier.tick()
        time.sleep(0.05)
    notifier.stopping()
    told = [listening.recv(1000).decode() for _ in range(6)]
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    assert told[1:5].count("WATCHDOG=1") == 3  # every 100 ms: thrice in its time
    assert "STATUS=running, 0.0 fps, 0 frames, 0 dropped; source: unplugged" in told


def test_an_abstract_socket_is_found(status: Status) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0aerogaze-test-{os.getpid()}")
        listener.settimeout(5)
        SystemdNotifier(status, {"NOTIFY_SOCKET": f"@aerogaze-test-{os.getpid()}"}).ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000"}])
def test_nobody_who_listens_is_no_matter(status: Status, environ: dict[str, str]) -> None:
    notifier = SystemdNotifier(status, environ)
    for tell in (notifier.ready, notifier.tick, notifier.stopping):
        tell()


def test_another_process_watchdog_is_not_ours(listening: socket.socket, status: Status) -> None:
    environ = {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notifier = SystemdNotifier(status, environ)
    notifier.tick()
    notifier.stopping()
    assert [listening.recv(100)[:7] for _ in range(2)] == [b"STATUS=", b"STOPPIN"]


def test_a_live_run_that_ends_by_itself_says_so(
    listening: socket.socket, command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", listening.getsockname())
    assert command("run", "synthetic:7:64x64:5", "--realtime").code == 0
    told = [listening.recv(1000).decode()]
    while told[-1] != "STOPPING=1":
        told.append(listening.recv(1000).decode())
    assert told[0] == "READY=1"


def test_a_service_is_ready_alive_and_ends_cleanly_by_sigterm(
    listening: socket.socket, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        'source = "synthetic:7:128x96:10000"\nrealtime = true\njsonl = "o.jsonl"\nmaps = "maps"\n'
    )
    environ = {**os.environ, "NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "600000"}
    words = [sys.executable, "-m", "edge.cli.main", "run", "--config", str(config), "--json"]
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as service:
        told = [listening.recv(1000).decode()]
        while told.count("WATCHDOG=1") < 5:
            told.append(listening.recv(1000).decode())
        service.send_signal(signal.SIGTERM)
        out, _ = service.communicate(timeout=20)
    assert told[0] == "READY=1"
    assert any(text.startswith("STATUS=running, ") for text in told)
    assert service.returncode == 0
    summary = json.loads(out)
    assert summary["interrupted"]
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == sorted(
        {json.loads(line)["frame"] for line in lines}
    )
    assert summary["frames"] == len(lines) == len(list((tmp_path / "maps").iterdir())) > 3
    listening.settimeout(1)
    left = []
    try:
        while True:
            left.append(listening.recv(1000).decode())
    except TimeoutError:
        pass
    assert "STOPPING=1" in left
