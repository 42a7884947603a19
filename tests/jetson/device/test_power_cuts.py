"""Whatever is cut off, wherever: the board flies the old release or the new one, and takes the next."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.hardware.board import read_board_facts
from edge.release.manifest import load_release
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.board import DeviceBoard
from jetson.device.durable_disk import DurableDisk
from jetson.device.install import install
from jetson.device.precision_policy import parse_policy
from jetson.device.service import NoService
from jetson.signing.keys import SigningKey
from jetson.signing.trust import make_trust
from tests.support.disks import Cut, CutDisk, FailingDisk, FakeBackend, LossyDisk

OLD, NEW, NEXT = 2, 3, 4


def a_board(root: Path, disk: DurableDisk | None = None) -> DeviceBoard:
    return DeviceBoard(
        root,
        read_board_facts(root / "facts"),
        FakeBackend(),
        parse_policy("fastest"),
        NoService(),
        disk or DurableDisk(),
    )


@pytest.fixture(scope="module")
def bundles(make: Callable[..., Path]) -> dict[int, Path]:
    return {counter: make(counter=counter) for counter in (1, OLD, NEW, NEXT)}


@pytest.fixture(scope="module")
def flown(bundles: dict[int, Path], key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board that flies OLD, and has 1 in the other slot."""
    root = tmp_path_factory.mktemp("board") / "root"
    board = a_board(root)
    board.set_trust(make_trust([key.public_key]), None)
    for counter in (1, OLD):
        install(board, bundles[counter], NoAutopilot())
    return root


def steps_of(flown: Path, bundle: Path, root: Path) -> int:
    shutil.copytree(flown, root)
    disk = CutDisk()
    install(a_board(root, disk), bundle, NoAutopilot())
    return disk.steps


def check_whole(root: Path, bundles: dict[int, Path], where: object) -> int:
    """See that a whole release is flown, that it boots, and that the next install works."""
    state = a_board(root).read_state()
    assert state.current is not None, where
    assert state.current_slot is not None, where
    assert a_board(root).verify_slot(state.current).counter == state.current_slot.counter, where
    load_release(a_board(root).release_folder(state.current))
    booted = a_board(root).recover_at_boot()
    assert booted.current is not None, where
    assert not booted.trial, where
    assert booted.current_slot is not None, where
    a_board(root).verify_slot(booted.current)
    after = install(a_board(root), bundles[NEXT], NoAutopilot())
    assert after.current_slot is not None, where
    assert after.current_slot.counter == NEXT, where
    return booted.current_slot.counter


def test_killed_at_each_step_it_flies_the_old_or_the_new(
    flown: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    count = steps_of(flown, bundles[NEW], tmp_path / "whole")
    assert count > 40
    seen = []
    for at in range(1, count + 1):
        root = Path(shutil.copytree(flown, tmp_path / "cut"))
        with pytest.raises(Cut) as cut:
            install(a_board(root, CutDisk(at)), bundles[NEW], NoAutopilot())
        seen.append(check_whole(root, bundles, cut.value))
        shutil.rmtree(root)
    assert set(seen) == {OLD, NEW}
    assert seen == sorted(seen), "once the new one is good it stays"


@pytest.mark.parametrize("lost", ["all", "data", "some"])
def test_a_power_cut_at_each_step_loses_nothing_that_is_flown(
    flown: Path, bundles: dict[int, Path], tmp_path: Path, lost: str
) -> None:
    count = steps_of(flown, bundles[NEW], tmp_path / "whole")
    chance = random.Random(3)  # noqa: S311
    for at in range(1, count + 1):
        root = Path(shutil.copytree(flown, tmp_path / "cut"))
        disk = LossyDisk(at)
        with pytest.raises(Cut) as cut:
            install(a_board(root, disk), bundles[NEW], NoAutopilot())
        disk.lose(lost, chance)
        assert check_whole(root, bundles, cut.value) in (OLD, NEW)
        shutil.rmtree(root)


class Forgetful(LossyDisk):
    """Its calls to put things on the disk do nothing: so that the test above is seen to be able to fail."""

    def step(self, what: str, path: Path) -> None:
        if what not in ("fsync", "sync"):
            super().step(what, path)


def test_the_power_cut_finds_a_disk_that_is_never_synced(
    flown: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(flown, tmp_path / "cut"))
    disk = Forgetful(0)
    install(a_board(root, disk), bundles[NEW], NoAutopilot())
    disk.lose("data", random.Random(1))  # noqa: S311
    with pytest.raises((InputError, AssertionError)):
        check_whole(root, bundles, "never synced")


@pytest.mark.parametrize(("number", "forever"), [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.EIO, 0)])
def test_a_disk_that_fails_at_any_step_is_one_line(
    flown: Path, bundles: dict[int, Path], tmp_path: Path, number: int, forever: bool
) -> None:
    count = steps_of(flown, bundles[NEW], tmp_path / "whole")
    for at in range(1, count + 1, 3):
        root = Path(shutil.copytree(flown, tmp_path / "failing"))
        with pytest.raises(InputError, match="cannot write the board"):
            install(a_board(root, FailingDisk(at, number, forever)), bundles[NEW], NoAutopilot())
        assert check_whole(root, bundles, at) in (OLD, NEW)
        shutil.rmtree(root)


CHILD = """
import sys
from pathlib import Path
import jetson.cli.device as commands
from tests.support.disks import KilledDisk
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.install import install
this = commands.board(Path(sys.argv[1]))
this.disk = KilledDisk(int(sys.argv[3]))
install(this, Path(sys.argv[2]), NoAutopilot())
print(this.disk.steps)
"""


def child(root: Path, bundle: Path, at: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", CHILD, str(root), str(bundle), str(at)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def kill_at(flown: Path, bundles: dict[int, Path], tmp_path: Path, steps: list[int]) -> None:
    for at in steps:
        root = Path(shutil.copytree(flown, tmp_path / f"killed{at}"))
        done = child(root, bundles[NEW], at)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert check_whole(root, bundles, at) in (OLD, NEW)
        shutil.rmtree(root)


def real_steps(flown: Path, bundles: dict[int, Path], tmp_path: Path) -> int:
    root = Path(shutil.copytree(flown, tmp_path / "whole"))
    done = child(root, bundles[NEW], 0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_process_killed_outright_leaves_a_whole_board(
    flown: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    last = real_steps(flown, bundles, tmp_path)
    kill_at(flown, bundles, tmp_path, [last // 4, last // 2, last - 8, last - 2])


@pytest.mark.long
def test_a_process_killed_outright_at_each_step_leaves_a_whole_board(
    flown: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    kill_at(flown, bundles, tmp_path, list(range(1, real_steps(flown, bundles, tmp_path) + 1)))


@pytest.mark.long
def test_kills_by_chance_in_a_row_leave_a_whole_board(
    flown: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    """One board, killed again and again at any moment of the command, never mended by hand.

    For two minutes, or for the seconds that the environment's `KILLS_S` says.
    """
    seconds = float(os.environ.get("KILLS_S", "120"))
    chance, end = random.Random(seconds), time.monotonic() + seconds  # noqa: S311
    root = Path(shutil.copytree(flown, tmp_path / "root"))
    seen = set()
    while time.monotonic() < end:
        words = [sys.executable, "-m", "edge.cli.main", "device", "install", str(bundles[NEW]), "--reinstall"]
        process = subprocess.Popen([*words, "--root", str(root)], stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 1.5))
        process.kill()
        process.wait()
        state = a_board(root).read_state()
        assert state.current is not None
        a_board(root).verify_slot(state.current)
        seen.add((state.current, state.trial))
    assert len(seen) > 1
    assert check_whole(root, bundles, "at the end") in (OLD, NEW)


def test_a_second_command_is_kept_out(flown: Path, bundles: dict[int, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(flown, tmp_path / "root"))
    with (
        a_board(root).lock(),
        pytest.raises(InputError, match="another aerogaze command works on the board"),
    ):
        install(a_board(root), bundles[NEW], NoAutopilot())
    install(a_board(root), bundles[NEW], NoAutopilot())
