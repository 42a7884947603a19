"""Tests of locks: other users cannot hold them, and an ended command is not taken for a running one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.core.locks import (
    acquire_lock,
    device_lock,
    is_in_use,
    is_running,
    mark_in_use,
    running_marker,
    writer_lock,
)

NOBODY = 65534
HOLD_FILE = (
    "file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
)
HOLD_MARKER = (
    "from pathlib import Path; from edge.core.locks import running_marker\n"
    "with running_marker(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)
HOLD_NAME = (
    "name = socket.socket(socket.AF_UNIX); name.bind('\\0' + sys.argv[1]); name.listen(); "
    "print('held', flush=True); sys.stdin.read()"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")


@contextmanager
def process_of(user: int | None, code: str, *arguments: str) -> Iterator[None]:
    """Run Python code that prints "held" as another user (None: this user) while the block runs."""
    # Python starts as this user, since its folder may be closed to others.
    change = "" if user is None else f"os.setgroups([]); os.setgid({user}); os.setuid({user}); "
    words = [sys.executable, "-I", "-c", f"import fcntl, os, socket, sys; {change}{code}", *arguments]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate()


@pytest.fixture
def shared_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that all users can enter and list."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    closed = [parent for parent in folder.parents if not parent.stat().st_mode & 0o001]
    modes = [stat.S_IMODE(parent.stat().st_mode) for parent in closed]
    for parent, mode in zip(closed, modes, strict=True):
        parent.chmod(mode | 0o011)
    yield folder
    for parent, mode in zip(closed, modes, strict=True):
        parent.chmod(mode)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_lock_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        handle = acquire_lock(tmp_path / "lock")
        with writer_lock(tmp_path / "target"):
            assert stat.S_IMODE((tmp_path / ".target.lock").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert handle is not None
    assert stat.S_IMODE(os.fstat(handle).st_mode) == 0o600
    assert acquire_lock(tmp_path / "lock") is None, "held"
    os.close(handle)
    handle = acquire_lock(tmp_path / "lock")
    assert handle is not None
    os.close(handle)


def test_link_in_place_of_a_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        acquire_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


@needs_root
def test_other_user_cannot_open_the_lock_file(shared_folder: Path) -> None:
    handle = acquire_lock(shared_folder / "lock")
    assert handle is not None
    os.close(handle)
    with pytest.raises(AssertionError), process_of(NOBODY, HOLD_FILE, str(shared_folder / "lock")):
        pass


@needs_root
def test_lock_of_another_user_on_a_file_of_an_older_version_is_ignored(shared_folder: Path) -> None:
    path = shared_folder / "lock"
    path.touch(0o644)
    with process_of(NOBODY, HOLD_FILE, str(path)):
        handle = acquire_lock(path)
        assert handle is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert acquire_lock(path) is None, "held by this process now"
        os.close(handle)
    assert [entry.name for entry in shared_folder.iterdir()] == ["lock"]


def test_lock_of_the_same_user_on_a_file_of_an_older_version_counts(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(0o644)
    with process_of(None, HOLD_FILE, str(path)):
        assert acquire_lock(path) is None
    handle = acquire_lock(path)
    assert handle is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    os.close(handle)


def test_two_processes_do_not_replace_the_same_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch(0o644)
    other = acquire_lock(tmp_path / "lock.new")  # another process is about to replace it
    assert other is not None
    assert acquire_lock(path) is None
    os.close(other)
    handle = acquire_lock(path)
    assert handle is not None
    os.close(handle)


def test_marker_is_that_of_a_running_process_only_in_its_block(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    before = os.umask(0o077)
    try:
        with running_marker(path):
            assert is_running(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o644, "all users may read it"
    finally:
        os.umask(before)
    assert not is_running(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda row: {**row, "started": row["started"] + 1},
        lambda row: {**row, "boot": "another"},
        lambda row: {**row, "pid": 1 << 30},
        lambda row: {**row, "pid": True},
        lambda row: {**row, "pid": "1"},
        lambda row: {**row, "pid": 10**400},
        lambda row: [],
        lambda row: {},
    ],
)
def test_marker_of_another_process_or_boot_is_stale(tmp_path: Path, change: Callable[..., object]) -> None:
    path = tmp_path / "running.json"
    with running_marker(path):
        row = {**json.loads(path.read_text()), "locked": False}
    path.write_text(json.dumps(row))
    assert is_running(path), "as an older version wrote it: only process, start time and boot count"
    path.write_text(json.dumps(change(row)))
    assert not is_running(path)


def test_marker_counts_whatever_a_container_says_about_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "running.json"
    with running_marker(path):
        monkeypatch.setattr("edge.core.locks._boot_id", lambda: "another")
        monkeypatch.setattr("edge.core.locks._start_ticks", lambda process: None)
        monkeypatch.setattr(os, "kill", lambda process, number: os.stat("/nowhere"))
        assert is_running(path)
    assert not is_running(path)


def test_marker_of_a_killed_process_or_an_earlier_boot_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    with running_marker(path):
        left = path.read_bytes()
    path.write_bytes(left)  # this process still runs, but holds no lock on it: as after a kill or a power cut
    assert not is_running(path)


def test_marker_of_a_process_that_was_killed_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    words = [sys.executable, "-c", f"import sys; {HOLD_MARKER}", str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_running(path)
        process.kill()
    assert path.exists()
    assert not is_running(path)


@needs_root
def test_other_user_can_ask_for_a_marker_and_cannot_hold_it(shared_folder: Path) -> None:
    path = shared_folder / "running.json"
    code = (
        "import fcntl, os, struct, sys; file = os.open(sys.argv[1], os.O_RDONLY); os.setuid(65534)\n"
        "lock = lambda kind, how: fcntl.fcntl(file, how, struct.pack('hhqqi4x', kind, 0, 0, 0, 0))\n"
        "print(struct.unpack('hhqqi4x', lock(fcntl.F_RDLCK, fcntl.F_OFD_GETLK))[0] == fcntl.F_WRLCK)\n"
        "lock(fcntl.F_WRLCK, fcntl.F_OFD_SETLK)"
    )
    with running_marker(path):
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "True\n"
    assert "Bad file descriptor" in done.stderr, "a lock for writing needs a file that is open for writing"


def test_file_is_in_use_until_the_program_that_replaced_its_user_ends(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.touch(0o444)
    assert not is_in_use(path)
    code = (
        "import os, sys; from pathlib import Path; from edge.core.locks import mark_in_use\n"
        "assert mark_in_use(Path(sys.argv[1])); os.execvp('sh', ['sh', '-c', 'echo held; read line'])"
    )
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_in_use(path)
        (tmp_path / "new").touch()
        (tmp_path / "new").rename(path)
        assert not is_in_use(path), "the file that is in use has no name any more"
        process.communicate("\n")
    assert not is_in_use(tmp_path / "missing")
    assert not mark_in_use(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"pid": '])
def test_marker_that_is_none_is_stale(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "running.json").write_bytes(content)
    assert not is_running(tmp_path / "running.json")


@needs_root
def test_device_lock_of_a_user_who_cannot_read_the_device_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = tmp_path / "video0"
    device.touch(0o640)
    with process_of(NOBODY, HOLD_NAME, f"aerogaze/{device}"), device_lock(str(device)):
        assert "is ignored" in caplog.text


def test_device_lock_holds_however_often_others_try(tmp_path: Path) -> None:
    device = str(tmp_path / "video0")
    with device_lock(device):
        for _ in range(300):  # more than the kernel queues
            with pytest.raises(InputError, match="is read by another aerogaze run"), device_lock(device):
                pass
    with device_lock(device):
        pass


@needs_root
def test_device_lock_of_another_user_who_can_read_the_device_counts(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    os.chown(device, 0, NOBODY)  # the group of the other user
    device.chmod(0o640)
    with (
        process_of(NOBODY, HOLD_NAME, f"aerogaze/{device}"),
        pytest.raises(InputError, match="is read by another aerogaze run"),
        device_lock(str(device)),
    ):
        pass
