"""A release that is not healthy goes back by itself, whatever cuts its trial off."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge.core.errors import CheckError
from jetson.device.board import DeviceBoard
from jetson.device.durable_disk import DurableDisk
from jetson.device.service import CommandService, NoService
from tests.jetson.conftest import START_2026, flown, put

Make = Callable[..., Path]
RESTART = """
kill $(cat {here}/loop {here}/pid 2>/dev/null) 2>/dev/null
echo "$AEROGAZE_RELEASE $AEROGAZE_PRECISION" >> {here}/started
case "$AEROGAZE_RELEASE" in
  */{bad}/release)
    (for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3 & echo $! > {here}/pid; wait $!; sleep 0.3; done) &
    echo $! > {here}/loop ;;
  *) sleep 60 & echo $! > {here}/pid ;;
esac
sleep 0.1
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[[str], CommandService]]:
    """A service that crashes in a loop in one of the slots ("a", "b"), and is well in others."""
    here = tmp_path / "service"
    here.mkdir()

    def call(bad: str) -> CommandService:
        (here / "restart.sh").write_text(RESTART.format(here=here, bad=bad))
        health = ("sh", "-c", f"kill -0 $(cat {here}/pid)")
        return CommandService(("sh", str(here / "restart.sh")), health, watch_s=1.5, every_s=0.1)

    yield call
    for name in ("loop", "pid"):
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((here / name).read_text()), signal.SIGTERM)


def test_a_service_that_crashes_in_a_loop_brings_the_old_release_back(
    board: DeviceBoard, make: Make, service: Callable[[str], CommandService], tmp_path: Path
) -> None:
    board.service = service("b")
    put(board, make(counter=1))
    started = time.monotonic()
    with pytest.raises(CheckError, match=r"did not stay healthy: .*; back to counter 1"):
        put(board, make(counter=2))
    assert time.monotonic() - started < 30
    state = board.read_state()
    assert (flown(board), state.current, state.trial, state.counter) == (1, "a", False, 1)
    paths = [line.split("/")[-2] for line in (tmp_path / "service" / "started").read_text().splitlines()]
    assert paths == ["a", "b", "a"]
    board.service.check()
    board.service = service("none")
    assert put(board, make(counter=2)).current == "b", "the slot is free for the next"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (CommandService(("false",)), "ended with exit code 1"),
        (CommandService(("/no/such/program",)), "cannot be run"),
        (CommandService(("sleep", "9"), command_s=0.2), r"took longer than 0\.2 s"),
        (CommandService(("true",), ("false",), watch_s=0.2, every_s=0.1), "ended with exit code 1"),
    ],
)
def test_a_service_that_does_not_start_brings_the_old_release_back(
    board: DeviceBoard, make: Make, broken: CommandService, message: str
) -> None:
    put(board, make(counter=1))
    board.service = broken
    with pytest.raises(CheckError, match=message):
        put(board, make(counter=2))
    assert flown(board) == 1


def test_a_command_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    late = tmp_path / "late"
    service = CommandService(("sh", "-c", f"(sleep 1; touch {late}) & wait"), command_s=0.2)
    with pytest.raises(CheckError, match="took longer"):
        service.restart(tmp_path, "int8")
    time.sleep(1.5)
    assert not late.exists()


def test_a_first_release_that_is_not_healthy_leaves_none(board: DeviceBoard, make: Make) -> None:
    board.service = CommandService(("false",))
    with pytest.raises(CheckError, match="nothing is flown now"):
        put(board, make())
    assert board.read_state().current is None


def test_a_trial_never_marked_good_goes_back_at_boot(board: DeviceBoard, make: Make) -> None:
    put(board, make(counter=1))

    class PowerCut(NoService):
        def watch(self) -> None:
            raise SystemError

    board.service = PowerCut()
    with pytest.raises(SystemError):
        put(board, make(counter=2))
    assert (flown(board), board.read_state().trial) == (2, True)
    assert board.recover_at_boot().trial is False
    assert flown(board) == 1
    assert "was never marked good" in board.read_state().history[-1]["detail"]


def test_a_trial_that_nobody_watches_is_not_flown_from_a_disk_that_cannot_be_written(
    board: DeviceBoard, make: Make
) -> None:
    put(board, make(counter=1))
    seen = []

    class PowerCut(NoService):
        def watch(self) -> None:
            seen.append(board.slot_to_run())
            raise SystemError

    board.service = PowerCut()
    with pytest.raises(SystemError):
        put(board, make(counter=2))
    assert [name for name, _ in filter(None, seen)] == ["b"], "an install that watches flies what it tries"
    code = (
        "import resource, sys, signal; from edge.cli.main import run_cli; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "sys.exit(run_cli(['device', 'boot', '--root', sys.argv[1]]))"
    )
    boot = subprocess.run([sys.executable, "-c", code, str(board.root)], capture_output=True, text=True)
    assert boot.returncode == 2, boot.stderr
    assert (flown(board), board.read_state().trial) == (2, True)
    words = [sys.executable, "-m", "edge.cli.main", "device", "exec", "--root", str(board.root)]
    told = subprocess.run([*words, "echo", "{release}"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(board.release_folder("a"))


def test_a_service_that_boots_the_board_as_it_starts_is_let_start(
    board: DeviceBoard, make: Make, tmp_path: Path
) -> None:
    boot = (sys.executable, "-m", "edge.cli.main", "device", "boot", "--root", str(board.root))
    board.service = CommandService(boot)
    put(board, make(counter=1))
    assert put(board, make(counter=2)).counter == 2
    well = tmp_path / "well"
    health = ("sh", "-c", f"test -e {well}")
    board.service = CommandService(boot, health, watch_s=0.3, every_s=0.1, command_s=9)
    said: list[str] = []
    board.log = said.append
    with pytest.raises(CheckError, match="back to counter 2"):
        put(board, make(counter=3))
    assert not any("did not restart on the old release" in line for line in said)


def test_a_board_with_nothing_on_trial_boots_from_a_disk_that_cannot_be_written(
    board: DeviceBoard, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(board, make())
    (board.root / "lock").unlink()
    (board.root / "lock").mkdir()  # opening it fails, for root too
    assert board.recover_at_boot().counter == 1


def test_a_first_release_whose_trial_was_cut_off_is_tried_again(board: DeviceBoard, make: Make) -> None:
    class PowerCut(NoService):
        def watch(self) -> None:
            raise SystemError

    board.service = PowerCut()
    with pytest.raises(SystemError):
        put(board, make(counter=5))
    assert board.recover_at_boot().trial
    board.service = CommandService(("false",))
    cut = (board.root / "state.json").read_bytes()
    with pytest.raises(CheckError, match="nothing is flown now"):
        put(board, make(counter=5))
    (board.root / "state.json").write_bytes(cut)
    board.service = NoService()
    state = put(board, make(counter=5))
    assert (state.current, state.previous, state.trial, state.counter) == ("b", None, False, 5)


class SayingNo(DurableDisk):
    """Cannot write the state that marks the trial good."""

    def step(self, what: str, path: Path) -> None:
        if what == "rename" and b'"trial":false' in path.with_name("state.json.new").read_bytes():
            self.step = lambda what, path: None  # type: ignore[method-assign]
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_a_disk_that_fails_after_the_watch_leaves_no_trial(board: DeviceBoard, make: Make) -> None:
    put(board, make(counter=1))
    state = board.read_state()
    newer = dataclasses.replace(state, slots={**state.slots, "b": state.slots["a"]})
    board.disk = SayingNo()
    with pytest.raises(OSError, match="Input/output error"):
        board.switch(newer, "b", "install")
    after = board.read_state()
    assert (after.current, after.trial, after.history[-1]["event"]) == ("a", False, "back")


def test_a_signal_after_the_watch_leaves_no_trial(board: DeviceBoard, make: Make) -> None:
    put(board, make(counter=1))

    def late() -> float:
        if board.read_state().trial:
            board.clock = lambda: START_2026
            raise KeyboardInterrupt
        return START_2026

    board.clock = late
    with pytest.raises(KeyboardInterrupt):
        put(board, make(counter=2))
    assert (flown(board), board.read_state().trial) == (1, False)


def test_an_interrupt_during_the_watch_goes_back(board: DeviceBoard, make: Make) -> None:
    put(board, make(counter=1))

    class Interrupted(NoService):
        def watch(self) -> None:
            raise KeyboardInterrupt

    board.service = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        put(board, make(counter=2))
    assert (flown(board), board.read_state().trial) == (1, False)
