"""Unhealthy releases and interrupted trials are reverted."""

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
from types import SimpleNamespace

import pytest

from edge.core.errors import CheckError
from jetson.device.board import DeviceBoard
from jetson.device.durable_disk import DurableDisk
from jetson.device.service import CommandService, NoService
from jetson.device.slot_state import save_state
from tests.support.boards import START_2026, flown_counter, install_bundle
from tests.support.clocks import ManualClock

MakeBundle = Callable[..., Path]
RESTART = """
kill $(cat {here}/loop {here}/pid 2>/dev/null) 2>/dev/null
echo "$AEROGAZE_RELEASE $AEROGAZE_PRECISION" >> {here}/started
wait_for_checks() {{
  end=$(($(wc -l < {here}/checks) + $1))
  until [ $(wc -l < {here}/checks) -ge $end ]; do sleep 0.02; done
}}
case "$AEROGAZE_RELEASE" in
  */{bad}/release)
    (while :; do
       sleep 60 & child=$!
       echo $child > {here}/pid
       wait_for_checks 2
       kill $child
       wait_for_checks 2
     done) &
    echo $! > {here}/loop ;;
  *) sleep 60 & echo $! > {here}/pid ;;
esac
sleep 0.1
"""
"""Restarts a service. With the release of the bad slot it crashes in a loop that follows the health checks:
of two checks during a crash at least one fails, however slow the machine is."""
HEALTH = "kill -0 $(cat {here}/pid); code=$?; echo >> {here}/checks; exit $code"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., CommandService]]:
    """Make a service that crashes in a loop with the release of one slot ("a", "b")."""
    here = tmp_path / "service"
    here.mkdir()
    (here / "checks").touch()

    def call(bad: str, watch_s: float = 0.3) -> CommandService:
        (here / "restart.sh").write_text(RESTART.format(here=here, bad=bad))
        health = ("sh", "-c", HEALTH.format(here=here))
        return CommandService(("sh", str(here / "restart.sh")), health, watch_s=watch_s, every_s=0.1)

    yield call
    for name in ("loop", "pid"):
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((here / name).read_text()), signal.SIGTERM)


def test_crash_loop_of_the_service_reverts_to_the_old_release(
    board: DeviceBoard, make_bundle: MakeBundle, service: Callable[..., CommandService], tmp_path: Path
) -> None:
    board.service = service("b")
    install_bundle(board, make_bundle(counter=1))
    board.service = service("b", watch_s=9.0)
    assert board.service.limits(None).revert_s == 30
    with pytest.raises(CheckError, match=r"did not stay healthy: .*; back to counter 1"):
        install_bundle(board, make_bundle(counter=2))
    state = board.read_state()
    assert (flown_counter(board), state.current, state.trial, state.counter) == (1, "a", False, 1)
    paths = [line.split("/")[-2] for line in (tmp_path / "service" / "started").read_text().splitlines()]
    assert paths == ["a", "b", "a"]
    board.service.check_health()
    board.service = service("none")
    assert install_bundle(board, make_bundle(counter=2)).current == "b", (
        "the slot is free for the next install"
    )


FLY = """
kill $(cat {here}/pid 2>/dev/null) 2>/dev/null
rm -f {here}/flown
cd {checkout} || exit 1
{python} -m edge.cli.main device exec --root {root} sh -c 'echo $0 >&2; exec sleep 60' {{release}} \
    2> {here}/flown & echo $! > {here}/pid
until grep -qs /release {here}/flown; do kill -0 $! || exit 1; sleep 0.02; done
"""
"""Restarts a service that is started by `device exec`."""


@pytest.fixture
def flying(tmp_path: Path, board: DeviceBoard) -> Iterator[CommandService]:
    """A service that is started by `device exec`, with a health check that only asks whether it runs."""
    script = tmp_path / "fly.sh"
    checkout = Path(__file__).parents[3]
    script.write_text(FLY.format(here=tmp_path, checkout=checkout, python=sys.executable, root=board.root))
    alive = ("sh", "-c", f"kill -0 $(cat {tmp_path}/pid)")
    yield CommandService(("sh", str(script)), alive, watch_s=0.2, every_s=0.1, command_s=30)
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_service_that_device_exec_starts_must_fly_the_slot_on_trial(
    board: DeviceBoard, make_bundle: MakeBundle, flying: CommandService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    board.log, board.service = lines.append, flying
    install_bundle(board, make_bundle(counter=1))
    assert (board.is_flown("a"), board.is_flown("b")) == (True, False)
    install_bundle(board, make_bundle(counter=2))
    assert (board.is_flown("a"), board.is_flown("b")) == (False, True)
    assert not any("is not verified" in line for line in lines)
    # From now on the service does not see the install that watches it, for whatever reason.
    monkeypatch.setattr("jetson.device.board.RUNNING_FILE", "unseen.json")
    with pytest.raises(CheckError, match="the service flies slot b instead of slot a; back to counter 2"):
        install_bundle(board, make_bundle(counter=3))
    state = board.read_state()
    assert (state.current, state.trial, state.counter) == ("b", False, 2)
    assert "flies slot b instead of slot a" in state.history[-1]["detail"]
    flying.check_health()


@pytest.mark.parametrize("health", [(), ("true",)])
def test_service_that_flies_no_slot_any_more_is_a_failed_trial(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, health: tuple[str, ...]
) -> None:
    install_bundle(board, make_bundle(counter=1))
    flown = {"a"}
    monkeypatch.setattr(DeviceBoard, "is_flown", lambda board, name: name in flown)

    class LeavesDeviceExec(CommandService):
        def restart(self, release: Path, precision: str) -> None:
            flown.clear()

    board.service = LeavesDeviceExec(("true",), health, watch_s=0.05, every_s=0.01)
    with pytest.raises(CheckError, match="the service flies no slot instead of slot b; back to counter 1"):
        install_bundle(board, make_bundle(counter=2))


def test_service_without_health_checks_has_the_time_of_the_watch_to_start(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_bundle(board, make_bundle(counter=1))
    clock, flown = ManualClock(100.0), {"a"}
    monkeypatch.setattr(DeviceBoard, "is_flown", lambda board, name: name in flown)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock() > 105.0:
            flown.symmetric_difference_update("ab")

    simulated = SimpleNamespace(monotonic=clock, sleep=sleep, time=time.time)
    monkeypatch.setattr("jetson.device.board.time", simulated)
    board.service = CommandService(("true",), watch_s=8.0)
    assert install_bundle(board, make_bundle(counter=2)).current == "b"
    assert clock() == 105.5


def test_service_that_was_never_started_by_device_exec_is_named_as_not_verified(
    board: DeviceBoard, make_bundle: MakeBundle, service: Callable[..., CommandService]
) -> None:
    lines: list[str] = []
    board.log, board.service = lines.append, service("none")
    assert install_bundle(board, make_bundle(counter=1)).counter == 1
    assert "the service was not started by device exec: which slot it flies is not verified" in lines


def test_slot_that_is_marked_good_while_exec_looks_is_flown(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_bundle(board, make_bundle(counter=1))
    good = install_bundle(board, make_bundle(counter=2))
    save_state(board.disk, board.root, dataclasses.replace(good, trial=True))

    def end_of_install(path: Path) -> bool:
        save_state(board.disk, board.root, good)
        return False

    monkeypatch.setattr("jetson.device.board.is_running", end_of_install)
    slot = board.slot_to_run()
    assert slot is not None
    assert slot[0] == "b"


def test_watch_checks_the_health_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, checks = ManualClock(100.0), []
    monkeypatch.setattr("jetson.device.service.time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    monkeypatch.setattr(CommandService, "check_health", lambda self: checks.append(clock()))
    CommandService(("true",), ("true",), watch_s=1.25, every_s=0.5).watch()
    assert checks == [100.5, 101.0, 101.25]
    CommandService(("true",), (), watch_s=1.25, every_s=0.5).watch()
    assert len(checks) == 3, "without a health command nothing is checked"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (CommandService(("false",)), "ended with exit code 1"),
        (CommandService(("/no/such/program",)), "cannot be run"),
        (CommandService(("sleep", "9"), command_s=0.2), r"took longer than 0\.2 s"),
        (CommandService(("true",), ("false",), watch_s=0.2, every_s=0.1), "ended with exit code 1"),
    ],
)
def test_failed_start_of_the_service_reverts_to_the_old_release(
    board: DeviceBoard, make_bundle: MakeBundle, broken: CommandService, message: str
) -> None:
    install_bundle(board, make_bundle(counter=1))
    board.service = broken
    with pytest.raises(CheckError, match=message):
        install_bundle(board, make_bundle(counter=2))
    assert flown_counter(board) == 1


def test_command_over_its_time_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    late = tmp_path / "late"
    service = CommandService(("sh", "-c", f"(sleep 1; touch {late}) & wait"), command_s=0.2)
    with pytest.raises(CheckError, match="took longer"):
        service.restart(tmp_path, "int8")
    time.sleep(1.5)
    assert not late.exists()


def test_unhealthy_first_release_leaves_no_release(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    board.service = CommandService(("false",))
    with pytest.raises(CheckError, match="nothing is flown now"):
        install_bundle(board, make_bundle())
    assert board.read_state().current is None


class InterruptedWatch(NoService):
    """Raises an error that no code handles, as if the power was cut during the watch."""

    def watch(self) -> None:
        raise SystemError


def test_unfinished_trial_is_reverted_at_boot(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle(counter=1))
    board.service = InterruptedWatch()
    with pytest.raises(SystemError):
        install_bundle(board, make_bundle(counter=2))
    assert (flown_counter(board), board.read_state().trial) == (2, True)
    assert board.recover_at_boot().trial is False
    assert flown_counter(board) == 1
    assert "was never marked good" in board.read_state().history[-1]["detail"]


def test_unwatched_trial_is_not_run_even_if_the_disk_is_read_only(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    install_bundle(board, make_bundle(counter=1))
    slots = []

    class RecordedWatch(NoService):
        def watch(self) -> None:
            slots.append(board.slot_to_run())
            raise SystemError

    board.service = RecordedWatch()
    with pytest.raises(SystemError):
        install_bundle(board, make_bundle(counter=2))
    assert [name for name, _ in filter(None, slots)] == ["b"], "an install that watches its trial runs it"
    code = (
        "import resource, sys, signal; from edge.cli.main import run_cli; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "sys.exit(run_cli(['device', 'boot', '--root', sys.argv[1]]))"
    )
    boot = subprocess.run([sys.executable, "-c", code, str(board.root)], capture_output=True, text=True)
    assert boot.returncode == 2, boot.stderr
    assert (flown_counter(board), board.read_state().trial) == (2, True)
    words = [sys.executable, "-m", "edge.cli.main", "device", "exec", "--root", str(board.root)]
    done = subprocess.run([*words, "echo", "{release}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(board.release_folder("a"))
    assert "no install watches slot b, which is on trial: flying slot a" in done.stderr


def test_service_that_runs_device_boot_can_restart_during_an_install(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    boot = (sys.executable, "-m", "edge.cli.main", "device", "boot", "--root", str(board.root))
    board.service = CommandService(boot, command_s=60)
    install_bundle(board, make_bundle(counter=1))
    assert install_bundle(board, make_bundle(counter=2)).counter == 2
    well = tmp_path / "well"
    health = ("sh", "-c", f"test -e {well}")
    board.service = CommandService(boot, health, watch_s=0.3, every_s=0.1, command_s=60)
    lines: list[str] = []
    board.log = lines.append
    with pytest.raises(CheckError, match="back to counter 2"):
        install_bundle(board, make_bundle(counter=3))
    assert not any("did not restart on the old release" in line for line in lines)


def test_boot_without_a_trial_needs_no_write_access(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_bundle(board, make_bundle())
    (board.root / "lock").unlink()
    (board.root / "lock").mkdir()  # opening a folder as a file fails, even for root
    assert board.recover_at_boot().counter == 1


def test_interrupted_trial_of_the_first_release_is_repeated(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    board.service = InterruptedWatch()
    with pytest.raises(SystemError):
        install_bundle(board, make_bundle(counter=5))
    assert board.recover_at_boot().trial
    board.service = CommandService(("false",))
    cut = (board.root / "state.json").read_bytes()
    with pytest.raises(CheckError, match="nothing is flown now"):
        install_bundle(board, make_bundle(counter=5))
    (board.root / "state.json").write_bytes(cut)
    board.service = NoService()
    state = install_bundle(board, make_bundle(counter=5))
    assert (state.current, state.previous, state.trial, state.counter) == ("b", None, False, 5)


class FailsToMarkGood(DurableDisk):
    """Disk that fails once, when the state that marks the trial good is renamed."""

    def step(self, operation: str, path: Path) -> None:
        if operation == "rename" and b'"trial":false' in path.with_name("state.json.new").read_bytes():
            self.step = lambda operation, path: None  # type: ignore[method-assign]
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_disk_error_after_the_watch_reverts_the_trial(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle(counter=1))
    state = board.read_state()
    newer = dataclasses.replace(state, slots={**state.slots, "b": state.slots["a"]})
    board.disk = FailsToMarkGood()
    with pytest.raises(OSError, match="Input/output error"):
        board.switch_to(newer, "b", "install")
    after = board.read_state()
    assert (after.current, after.trial, after.history[-1]["event"]) == ("a", False, "back")


def test_interrupt_after_the_watch_reverts_the_trial(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle(counter=1))

    def late() -> float:
        if board.read_state().trial:
            board.clock = lambda: START_2026
            raise KeyboardInterrupt
        return START_2026

    board.clock = late
    with pytest.raises(KeyboardInterrupt):
        install_bundle(board, make_bundle(counter=2))
    assert (flown_counter(board), board.read_state().trial) == (1, False)


def test_interrupt_during_the_watch_reverts_the_trial(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle(counter=1))

    class Interrupted(NoService):
        def watch(self) -> None:
            raise KeyboardInterrupt

    board.service = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        install_bundle(board, make_bundle(counter=2))
    assert (flown_counter(board), board.read_state().trial) == (1, False)
