"""Virtual boards leave nothing on this machine, even if their process is killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.virtual_board import call, missing_for_boards
from tests.support.waiting import wait_until

SET_UP = """
import sys
from pathlib import Path
from tests.support.virtual_board import desk_with_disk
with desk_with_disk(Path(sys.argv[1]), Path("id"), size_mb=200) as desk:
    (desk.disk / "file").touch()
    with desk.board(desk.disk / "file") as board:
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_killed_session_leaves_no_mount_and_no_network(tmp_path: Path) -> None:
    if reason := missing_for_boards():
        pytest.skip(reason)
    folder = tmp_path / "desk"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SET_UP, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        mounts = Path(f"/proc/{process.pid}/mounts").read_text()
        assert f"{folder}/disk btrfs" in mounts
        assert f"/run/netns/aerogaze-{process.pid} " in mounts
        assert "btrfs" in call("losetup", "--associated", folder / "btrfs")
        process.kill()
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert f"aerogaze-{process.pid}" not in call("ip", "netns", "list")
    shutil.rmtree(folder / "disk")
    assert wait_until(lambda: not call("losetup", "--associated", folder / "btrfs"))
