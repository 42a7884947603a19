"""Interrupted installs: the board flies the old or the new release, and accepts the next bundle."""

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
from edge.release.manifest import load_release
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.install import install
from jetson.signing.keys import SigningKey
from jetson.signing.trust import make_trust
from tests.support.boards import make_board
from tests.support.disks import FailingDisk, InterruptedDisk, LossyDisk, PowerCut

OLD, NEW, NEXT = 2, 3, 4


@pytest.fixture(scope="module")
def bundles(make_bundle: Callable[..., Path]) -> dict[int, Path]:
    return {counter: make_bundle(counter=counter) for counter in (1, OLD, NEW, NEXT)}


@pytest.fixture(scope="module")
def flying_board(bundles: dict[int, Path], key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board that flies OLD, and has 1 in the other slot."""
    root = tmp_path_factory.mktemp("board") / "root"
    board = make_board(root)
    board.set_trust(make_trust([key.public_key]), None)
    for counter in (1, OLD):
        install(board, bundles[counter], NoAutopilot())
    return root


def count_steps(flying_board: Path, bundle: Path, root: Path) -> int:
    shutil.copytree(flying_board, root)
    disk = InterruptedDisk()
    install(make_board(root, disk), bundle, NoAutopilot())
    return disk.steps


def check_board_is_intact(root: Path, bundles: dict[int, Path], context: object) -> int:
    """Check that a complete release is flown, that the board boots, and that the next install works."""
    state = make_board(root).read_state()
    assert state.current is not None, context
    assert state.current_slot is not None, context
    assert make_board(root).verify_slot(state.current).counter == state.current_slot.counter, context
    load_release(make_board(root).release_folder(state.current))
    booted = make_board(root).recover_at_boot()
    assert booted.current is not None, context
    assert not booted.trial, context
    assert booted.current_slot is not None, context
    make_board(root).verify_slot(booted.current)
    after = install(make_board(root), bundles[NEXT], NoAutopilot())
    assert after.current_slot is not None, context
    assert after.current_slot.counter == NEXT, context
    return booted.current_slot.counter


def test_interruption_at_each_step_leaves_the_old_or_the_new_release(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    count = count_steps(flying_board, bundles[NEW], tmp_path / "complete")
    assert count > 40
    counters = []
    for at in range(1, count + 1):
        root = Path(shutil.copytree(flying_board, tmp_path / "interrupted"))
        with pytest.raises(PowerCut) as interruption:
            install(make_board(root, InterruptedDisk(at)), bundles[NEW], NoAutopilot())
        counters.append(check_board_is_intact(root, bundles, interruption.value))
        shutil.rmtree(root)
    assert set(counters) == {OLD, NEW}
    assert counters == sorted(counters), "the new release stays once it is marked good"


@pytest.mark.parametrize("lost", ["all", "data", "some"])
def test_power_cut_at_each_step_loses_no_flown_data(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path, lost: str
) -> None:
    count = count_steps(flying_board, bundles[NEW], tmp_path / "complete")
    generator = random.Random(3)  # noqa: S311
    for at in range(1, count + 1):
        root = Path(shutil.copytree(flying_board, tmp_path / "interrupted"))
        disk = LossyDisk(at)
        with pytest.raises(PowerCut) as interruption:
            install(make_board(root, disk), bundles[NEW], NoAutopilot())
        disk.lose(lost, generator)
        assert check_board_is_intact(root, bundles, interruption.value) in (OLD, NEW)
        shutil.rmtree(root)


class UnsyncedDisk(LossyDisk):
    """Ignores all synchronization: proves that the test above can fail."""

    def step(self, operation: str, path: Path) -> None:
        if operation not in ("fsync", "sync"):
            super().step(operation, path)


def test_power_cut_test_detects_a_disk_without_sync(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(flying_board, tmp_path / "interrupted"))
    disk = UnsyncedDisk(0)
    install(make_board(root, disk), bundles[NEW], NoAutopilot())
    disk.lose("data", random.Random(1))  # noqa: S311
    with pytest.raises((InputError, AssertionError)):
        check_board_is_intact(root, bundles, "never synced")


@pytest.mark.parametrize(("number", "forever"), [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.EIO, 0)])
def test_disk_error_at_any_step_raises_input_error(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path, number: int, forever: bool
) -> None:
    count = count_steps(flying_board, bundles[NEW], tmp_path / "complete")
    for at in range(1, count + 1, 3):
        root = Path(shutil.copytree(flying_board, tmp_path / "failing"))
        with pytest.raises(InputError, match="cannot write the board"):
            install(make_board(root, FailingDisk(at, number, forever)), bundles[NEW], NoAutopilot())
        assert check_board_is_intact(root, bundles, at) in (OLD, NEW)
        shutil.rmtree(root)


INSTALL_SCRIPT = """
import sys
from pathlib import Path
from jetson.cli.device import open_board
from tests.support.disks import KilledDisk
from jetson.device.arming_interlock import NoAutopilot
from jetson.device.install import install
board = open_board(Path(sys.argv[1]))
board.disk = KilledDisk(int(sys.argv[3]))
install(board, Path(sys.argv[2]), NoAutopilot())
print(board.disk.steps)
"""


def run_install(root: Path, bundle: Path, at: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", INSTALL_SCRIPT, str(root), str(bundle), str(at)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def check_kill_at_steps(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path, steps: list[int]
) -> None:
    for at in steps:
        root = Path(shutil.copytree(flying_board, tmp_path / f"killed{at}"))
        done = run_install(root, bundles[NEW], at)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert check_board_is_intact(root, bundles, at) in (OLD, NEW)
        shutil.rmtree(root)


def count_steps_of_process(flying_board: Path, bundles: dict[int, Path], tmp_path: Path) -> int:
    root = Path(shutil.copytree(flying_board, tmp_path / "complete"))
    done = run_install(root, bundles[NEW], 0)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_killed_process_leaves_a_complete_release(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    last = count_steps_of_process(flying_board, bundles, tmp_path)
    check_kill_at_steps(flying_board, bundles, tmp_path, [last // 4, last // 2, last - 8, last - 2])


@pytest.mark.long
def test_process_killed_at_each_step_leaves_a_complete_release(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    check_kill_at_steps(
        flying_board,
        bundles,
        tmp_path,
        list(range(1, count_steps_of_process(flying_board, bundles, tmp_path) + 1)),
    )


@pytest.mark.long
def test_repeated_kills_at_random_times_leave_a_complete_release(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    """Kill the command repeatedly on the same board, without any repair by hand.

    It takes two minutes, or the number of seconds in the environment variable `KILLS_S`.
    """
    seconds = float(os.environ.get("KILLS_S", "120"))
    generator, end = random.Random(seconds), time.monotonic() + seconds  # noqa: S311
    root = Path(shutil.copytree(flying_board, tmp_path / "root"))
    states = set()
    while time.monotonic() < end:
        words = [sys.executable, "-m", "edge.cli.main", "device", "install", str(bundles[NEW]), "--reinstall"]
        process = subprocess.Popen([*words, "--root", str(root)], stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.2, 1.5))
        process.kill()
        process.wait()
        state = make_board(root).read_state()
        assert state.current is not None
        make_board(root).verify_slot(state.current)
        states.add((state.current, state.trial))
    assert len(states) > 1
    assert check_board_is_intact(root, bundles, "at the end") in (OLD, NEW)


def test_second_command_is_refused_while_the_lock_is_held(
    flying_board: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    root = Path(shutil.copytree(flying_board, tmp_path / "root"))
    with (
        make_board(root).lock(),
        pytest.raises(
            InputError,
            match=rf"another aerogaze command works on the board .* \(process {os.getpid()}\): wait",
        ),
    ):
        install(make_board(root), bundles[NEW], NoAutopilot())
    install(make_board(root), bundles[NEW], NoAutopilot())
