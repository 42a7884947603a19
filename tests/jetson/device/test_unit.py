"""The systemd unit: that systemd takes it, and that what it starts flies the board's current release."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import jetson
from tests.conftest import Outcome

UNIT = Path(jetson.__file__).parent / "aerogaze.service"
PROGRAM = "/opt/aerogaze/bin/aerogaze"


def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_understands_each_line(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    (tmp_path / "aerogaze").write_text("#!/bin/sh\n")
    (tmp_path / "aerogaze").chmod(0o755)
    unit = tmp_path / "aerogaze.service"
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(tmp_path / "aerogaze")))
    words = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if "aerogaze" in line]
    assert not told
    assert done.returncode == 0, done.stderr


def test_it_is_watched_started_again_and_not_root() -> None:
    unit = service()
    assert unit["Type"] == "notify"
    assert unit["Restart"] == "on-failure"
    assert int(unit["WatchdogSec"]) * 1e6 / 3 > 1e5  # longer than the run's own beat
    assert unit["User"] == "aerogaze"
    assert unit["SupplementaryGroups"].split() == ["video", "dialout"]  # whose cameras and serial lines are
    assert unit["ExecStartPre"].startswith("-+"), "as root; and a disk that cannot be written grounds nobody"


def test_what_it_starts_flies_the_boards_release(
    command: Callable[..., Outcome], bundle: Path, public: Path, tmp_path: Path
) -> None:
    root, config = tmp_path / "drone", tmp_path / "run.toml"
    for step in (["trust", public], ["install", bundle]):
        assert command("device", *step, "--root", root).code == 0
    config.write_text(
        'source = "synthetic:7:128x96:10000"\nrealtime = true\njsonl = "o.jsonl"\njson = true\n'
    )
    start = service()["ExecStart"].replace("/etc/aerogaze/run.toml", str(config))
    (tmp_path / "aerogaze").write_text(f'#!/bin/sh\nexec {sys.executable} -m edge.cli.main "$@"\n')
    (tmp_path / "aerogaze").chmod(0o755)
    words = shlex.split(start.replace(PROGRAM, str(tmp_path / "aerogaze")))
    words[3:3] = ["--root", str(root)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as run:
            told = [listener.recv(1000).decode()]
            while told.count("WATCHDOG=1") < 2 or not told[-1].startswith("STATUS=running"):
                told.append(listener.recv(1000).decode())
            run.send_signal(signal.SIGTERM)
            out, _ = run.communicate(timeout=30)
    assert told[0] == "READY=1"
    assert run.returncode == 0
    summary = json.loads(out)
    assert summary["precision"] == "int8"
    assert summary["release"] == "skd-64"
    assert (tmp_path / "o.jsonl").read_text().count("\n") == summary["frames"] > 0
