"""The systemd unit: systemd accepts it, and it runs the current release of the board."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import jetson
from tests.conftest import Outcome
from tests.support.pages import ROOT

UNIT = Path(jetson.__file__).parent / "aerogaze.service"
PROGRAM = "/opt/aerogaze/bin/aerogaze"
GPU_NODES = {
    "Orin, JetPack 6": {
        "nvgpu/igpu0/ctrl": "17000000.gpu",
        "host1x-fence": "host1x-fence",
        "nvmap": "misc",
        "dri/renderD128": "drm",
    },
    "Orin, JetPack 5": {
        "nvhost-ctrl-gpu": "17000000.ga10b",
        "nvgpu/igpu0/ctrl": "17000000.ga10b",
        "nvhost-ctrl": "nvhost-ctrl",
        "host1x-fence": "host1x-fence",
        "nvmap": "misc",
        "dri/renderD128": "drm",
    },
    "desktop": {
        "nvidia0": "nvidia",
        "nvidiactl": "nvidia-frontend",
        "nvidia-uvm": "nvidia-uvm",
        "dri/renderD128": "drm",
    },
}
"""Device nodes that CUDA opens, by board, each with the name of its driver in /proc/devices. The drivers'
sources give the names: nvgpu registers the name of its platform device, host1x-fence and DRM their own."""


def read_service_section() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_accepts_each_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (apt-get install systemd)")
    (tmp_path / "aerogaze").write_text("#!/bin/sh\n")
    (tmp_path / "aerogaze").chmod(0o755)
    unit = tmp_path / "aerogaze.service"
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(tmp_path / "aerogaze")))
    words = ["systemd-analyze", "verify", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "aerogaze" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_unit_has_watchdog_restart_and_unprivileged_user() -> None:
    unit = read_service_section()
    assert unit["Type"] == "notify"
    assert unit["Restart"] == "on-failure"
    assert int(unit["WatchdogSec"]) * 1e6 / 3 > 1e5  # longer than the run's own beat
    assert unit["User"] == "aerogaze"
    assert unit["SupplementaryGroups"].split() == ["video", "render", "dialout"]  # cameras, GPU, serial lines
    assert unit["ExecStartPre"].startswith("-+"), "as root; and a disk that cannot be written grounds nobody"


@pytest.mark.parametrize("board", GPU_NODES)
def test_unit_allows_every_node_that_cuda_opens(board: str) -> None:
    allowed = re.findall(r"^DeviceAllow=(\S+) rw$", UNIT.read_text(), re.M)
    drivers = [rule.removeprefix("char-") for rule in allowed if rule.startswith("char-")]
    refused = [
        node
        for node, driver in GPU_NODES[board].items()
        if f"/dev/{node}" not in allowed and not any(fnmatchcase(driver, pattern) for pattern in drivers)
    ]
    assert refused == []


def test_unit_allows_no_disk_and_no_memory() -> None:
    allowed = re.findall(r"^DeviceAllow=char-(\S+) rw$", UNIT.read_text(), re.M)
    others = ("mem", "misc", "tty", "ptmx", "input", "hidraw", "i2c", "gpiochip", "rtc", "watchdog")
    assert [name for name in others if any(fnmatchcase(name, pattern) for pattern in allowed)] == []


def test_unit_runs_the_release_of_the_board(
    command: Callable[..., Outcome], bundle: Path, public_key_file: Path, tmp_path: Path
) -> None:
    root, config = tmp_path / "drone", tmp_path / "run.toml"
    for step in (["trust", public_key_file], ["install", bundle]):
        assert command("device", *step, "--root", root).code == 0
    config.write_text(
        'source = "synthetic:7:128x96:10000"\nrealtime = true\njsonl = "o.jsonl"\njson = true\n'
    )
    start = read_service_section()["ExecStart"].replace("/etc/aerogaze/run.toml", str(config))
    (tmp_path / "aerogaze").write_text(f'#!/bin/sh\nexec {sys.executable} -m edge.cli.main "$@"\n')
    (tmp_path / "aerogaze").chmod(0o755)
    words = shlex.split(start.replace(PROGRAM, str(tmp_path / "aerogaze")))
    words[3:3] = ["--root", str(root)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with subprocess.Popen(words, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as run:
            messages = [listener.recv(1000).decode()]
            while messages.count("WATCHDOG=1") < 2 or not messages[-1].startswith("STATUS=running"):
                messages.append(listener.recv(1000).decode())
            run.send_signal(signal.SIGTERM)
            out, _ = run.communicate(timeout=30)
    assert messages[0] == "READY=1"
    assert run.returncode == 0
    summary = json.loads(out)
    assert summary["precision"] == "int8"
    assert summary["release"] == "skd-64"
    assert (tmp_path / "o.jsonl").read_text().count("\n") == summary["frames"] > 0


@pytest.mark.parametrize("page", ["how-to/service.md", "tutorials/orin-nano.md"])
def test_pages_install_the_options_for_the_service_only(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    commands = re.findall(r"install -D .*/etc/aerogaze/run.toml", text)
    assert commands, "the page installs the options"
    assert all("-m 640 -g aerogaze " in command for command in commands), "it may hold a camera's password"
