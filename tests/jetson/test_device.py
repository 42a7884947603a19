"""A board: what it takes, what it refuses, and how it goes back."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from edge import release as releases
from edge.errors import CheckError, InputError
from edge.files import sha256
from jetson import trust as trusts
from jetson.autopilot import NoAutopilot
from jetson.boards import Facts, read_facts
from jetson.device import Board
from jetson.disk import Disk
from jetson.install import install
from jetson.keys import Key, new_key, read_small
from jetson.manifest import Compatible
from jetson.policy import Measured, parse_policy
from jetson.service import CommandService, NoService
from jetson.state import State
from jetson.trial import OnnxRuntimeEngines, TensorRTEngines
from jetson.trust import make_trust, read_trust, write_trust
from tests.conftest import Outcome
from tests.jetson.conftest import trimmed
from tests.jetson.disks import QuickEngines

Command = Callable[..., Outcome]
Make = Callable[..., Path]
ORIN = Facts("NVIDIA Jetson Orin Nano", "orin-nano", "8.7", "36.4.3", "6.2", "10.3.0", None, {})
START_2026 = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()


@pytest.fixture
def board(tmp_path: Path, key: Key) -> Board:
    board = Board(
        tmp_path / "board",
        ORIN,
        QuickEngines(),
        parse_policy("fastest"),
        NoService(),
        clock=lambda: START_2026,
    )
    board.set_trust(make_trust([key.public]), None)
    return board


def put(board: Board, place: Path, **options: bool) -> State:
    return install(board, place, NoAutopilot(), **options)


def flown(board: Board) -> int | None:
    slot = board.state().flown
    return slot.counter if slot else None


def test_releases_follow_each_other_in_two_slots(board: Board, make: Make) -> None:
    for counter, slot in ((1, "a"), (2, "b"), (3, "a")):
        state = put(board, make(counter=counter))
        assert (state.current, state.trial, state.counter) == (slot, False, counter)
        assert releases.load(board.release(state.current or "a")).name == "skd-64"
    assert board.rollback().counter == 3, "the highest counter stays"
    assert flown(board) == 2
    assert [row["event"] for row in board.state().history] == ["install"] * 3 + ["rollback"]


def test_the_same_again_changes_nothing_unless_asked(board: Board, make: Make) -> None:
    place = make()
    put(board, place)
    before = (board.root / "state.json").read_bytes()
    put(board, place)
    assert (board.root / "state.json").read_bytes() == before
    assert put(board, place, reinstall=True).current == "b"


def test_counters_do_not_go_back(board: Board, make: Make) -> None:
    put(board, make(counter=5))
    with pytest.raises(CheckError, match="has counter 4, this board has flown 5"):
        put(board, make(counter=4))
    with pytest.raises(CheckError, match="another release with counter 5 is flown here"):
        put(board, make(counter=5, runtime="0.0.1"))
    over = make(counter=3, over=5)
    assert put(board, over).counter == 5
    assert flown(board) == 3
    put(board, make(counter=6))
    with pytest.raises(CheckError, match="has counter 3, this board has flown 6"):
        put(board, over)  # an override is for boards of its day, and cannot be played again


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"compatible": Compatible(boards=("agx-orin",))}, "for board agx-orin; here is orin-nano"),
        ({"compatible": Compatible(jetpack=("6.1",))}, r"for JetPack 6\.1; here is 6\.2"),
        ({"compatible": Compatible(tensorrt=("10.30", "11"))}, r"for TensorRT 10\.30, 11; here is 10\.3\.0"),
        ({"compatible": Compatible(compute_capability=("11.0",))}, r"compute capability 11\.0; here is 8\.7"),
        ({"runtime": "99"}, "needs aerogaze 99"),
        ({"expires": "2025-12-31"}, "expired after 2025-12-31"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    board: Board, make: Make, wishes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        put(board, make(**wishes))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


@pytest.mark.parametrize("expires", ["2026-01-01", "9999-12-31"])
def test_what_fits_is_taken(board: Board, make: Make, expires: str) -> None:
    fits = Compatible(("agx-orin", "orin-nano"), ("8.7",), ("6.2",), ("10.3",))
    assert put(board, make(compatible=fits, expires=expires)).counter == 1


def test_a_board_that_does_not_say_what_it_is_takes_no_bundle_for_one(board: Board, make: Make) -> None:
    board.facts = read_facts(board.root)
    with pytest.raises(CheckError, match="here is no known one"):
        put(board, make(compatible=Compatible(boards=("orin-nano",))))


def test_a_clock_at_1970_takes_bundles_but_forgets_no_day(board: Board, make: Make) -> None:
    ends = make(counter=2, expires="2026-01-31")
    board.clock = lambda: 60.0
    put(board, make(counter=1, expires="2025-01-31"))
    board.clock = lambda: START_2026 + 90 * 86400
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        put(board, ends)
    put(board, make(counter=2))  # from now on the board knows that it is April
    board.clock = lambda: 60.0
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        put(board, make(counter=3, expires="2026-01-31"))


def test_a_bundle_that_was_changed_is_refused_before_anything_is_written(
    board: Board, make: Make, key: Key, tmp_path: Path
) -> None:
    data = make().read_bytes()
    spoilt = tmp_path / "spoilt.swu"
    for content in (data[:-700], data[:5000] + b"\1" + data[5001:], data + b"\0", b"", b"x" * 4096):
        spoilt.write_bytes(content)
        with pytest.raises((InputError, CheckError)):
            put(board, spoilt)
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys"):
        put(board, make(new_key(tmp_path / "other")))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


def test_a_board_that_trusts_nobody_takes_nothing(tmp_path: Path, bundle: Path) -> None:
    board = Board(tmp_path / "b", ORIN, QuickEngines(), parse_policy("fastest"), NoService())
    with pytest.raises(InputError, match="trusts no key yet: aerogaze device trust"):
        put(board, bundle)


def test_trust_changes_hands_only_by_those_who_have_it(
    board: Board, make: Make, key: Key, tmp_path: Path
) -> None:
    other = new_key(tmp_path / "o")
    successor = make_trust([other.public], version=2)
    with pytest.raises(CheckError, match=r"trusts .* already"):
        board.set_trust(make_trust([other.public]), None)
    write_trust(successor, [other], tmp_path / "t.json")
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys"):
        board.set_trust(*read_trust(tmp_path / "t.json"))
    write_trust(successor, [key], tmp_path / "t.json")
    board.set_trust(*read_trust(tmp_path / "t.json"))
    with pytest.raises(CheckError, match="signed by 0"):
        put(board, make())
    assert put(board, make(other)).current == "a"


def test_trust_changed_while_it_is_read_is_not_taken(
    command: Command, key: Key, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, root = tmp_path / "t.json", tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    before = (root / "trust.json").read_bytes()
    honest, evil = new_key(tmp_path / "honest"), new_key(tmp_path / "evil")
    write_trust(make_trust([honest.public], version=2), [key], place)
    signed = place.read_bytes()
    write_trust(make_trust([evil.public], version=2), [], place)
    reads = 0

    def swapped(path: Path) -> bytes:
        nonlocal reads
        data = read_small(path)
        reads += 1
        if reads == 2:
            place.write_bytes(signed)
        return data

    monkeypatch.setattr(trusts, "read_small", swapped)
    refused = command("device", "trust", place, "--root", root)
    assert refused.code == 1
    assert "signed by 0 of the trusted keys" in refused.err
    assert reads == 1
    assert (root / "trust.json").read_bytes() == before


def test_too_little_room_is_told_before_anything_is_written(
    board: Board, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(board.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(InputError, match="has 1 MiB free"):
        put(board, make())
    assert not (board.root / "slots").exists()


def test_a_precision_that_breaks_the_policy_does_not_fly(board: Board, make: Make) -> None:
    put(board, make())
    board.engines = QuickEngines(
        Measured("fp32", 1.0, 9.0, 30.0),
        Measured("int8", 0.9, 1.0, 2.0),
        Measured("fp16", 0, 0, 0, "gives NaN"),
    )
    board.policy = parse_policy("fastest within cc>=.99 and p99<=20ms")
    with pytest.raises(CheckError) as refused:
        put(board, make(counter=2))
    for told in ("fp32: p99 30.00 > 20 ms", "int8: cc 0.9000 < 0.99", "fp16: gives NaN"):
        assert told in str(refused.value)
    assert flown(board) == 1
    assert board.state().history[-1]["event"] == "refused"
    assert not board.slot("b").exists()
    board.policy = parse_policy("closest")
    assert put(board, make(counter=2)).flown.precision == "fp32"  # type: ignore[union-attr]


def spoil_golden(folder: Path) -> None:
    """A release whose golden maps are of something else, in order by its hashes."""
    with np.load(folder / releases.GOLDEN) as golden:
        np.savez_compressed(folder / releases.GOLDEN, frames=golden["frames"], maps=golden["maps"][:, ::-1])
    document = json.loads((folder / releases.MANIFEST).read_text())
    path = folder / releases.GOLDEN
    document["files"][releases.GOLDEN] = {"sha256": sha256(path), "size_bytes": path.stat().st_size}
    (folder / releases.MANIFEST).write_text(json.dumps(document))


def test_a_release_that_fails_its_golden_set_does_not_fly(board: Board, make: Make, tmp_path: Path) -> None:
    board.engines = OnnxRuntimeEngines()
    put(board, make())
    spoilt = trimmed(tmp_path / "spoilt", "int8")
    spoil_golden(spoilt)
    with pytest.raises(CheckError, match="does not give its golden maps"):
        put(board, make(counter=2, release=spoilt))
    assert flown(board) == 1


def test_real_engines_are_tried_and_the_fastest_within_bounds_is_flown(
    board: Board, make: Make, tmp_path: Path
) -> None:
    board.engines = OnnxRuntimeEngines()
    board.policy = parse_policy("closest within cc>=.995 and p99<=1000")
    slot = put(board, make(release=trimmed(tmp_path / "two", "fp32", "int8"))).flown
    assert slot is not None
    assert slot.precision == "fp32"
    assert [row["precision"] for row in slot.measured] == ["fp32", "int8"]
    for row in slot.measured:
        assert row["cc"] > 0.995
        assert 0 < row["p50_ms"] <= row["p99_ms"]


def test_tensorrt_engines_are_built_on_the_board_and_without_a_gpu_not_flown(
    board: Board, make: Make, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    board.engines = TensorRTEngines("rtx")
    said: list[str] = []
    board.say = said.append
    with pytest.raises(CheckError, match="no NVIDIA GPU here"):
        put(board, make(release=trimmed(tmp_path / "r", "fp32")))
    assert any("built stream.fp32.engine" in line for line in said)


# Services: real processes, started and asked by commands.

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
    board: Board, make: Make, service: Callable[[str], CommandService], tmp_path: Path
) -> None:
    board.service = service("b")
    put(board, make(counter=1))
    started = time.monotonic()
    with pytest.raises(CheckError, match=r"did not stay healthy: .*; back to counter 1"):
        put(board, make(counter=2))
    assert time.monotonic() - started < 30
    state = board.state()
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
    board: Board, make: Make, broken: CommandService, message: str
) -> None:
    put(board, make(counter=1))
    board.service = broken
    with pytest.raises(CheckError, match=message):
        put(board, make(counter=2))
    assert flown(board) == 1


def test_a_first_release_that_is_not_healthy_leaves_none(board: Board, make: Make) -> None:
    board.service = CommandService(("false",))
    with pytest.raises(CheckError, match="nothing is flown now"):
        put(board, make())
    assert board.state().current is None


def test_a_trial_never_marked_good_goes_back_at_boot(board: Board, make: Make) -> None:
    put(board, make(counter=1))

    class PowerCut(NoService):
        def watch(self) -> None:
            raise SystemError

    board.service = PowerCut()
    with pytest.raises(SystemError):
        put(board, make(counter=2))
    assert (flown(board), board.state().trial) == (2, True)
    assert board.boot().trial is False
    assert flown(board) == 1
    assert "was never marked good" in board.state().history[-1]["detail"]


def test_a_service_that_boots_the_board_as_it_starts_is_let_start(
    board: Board, make: Make, tmp_path: Path
) -> None:
    boot = (sys.executable, "-m", "edge.command", "device", "boot", "--root", str(board.root))
    board.service = CommandService(boot, command_s=30)
    put(board, make(counter=1))
    assert put(board, make(counter=2)).counter == 2
    well = tmp_path / "well"
    health = ("sh", "-c", f"test -e {well}")
    board.service = CommandService(boot, health, watch_s=0.3, every_s=0.1, command_s=30)
    said: list[str] = []
    board.say = said.append
    with pytest.raises(CheckError, match="back to counter 2"):
        put(board, make(counter=3))
    assert not any("did not restart on the old release" in line for line in said)


def test_a_board_with_nothing_on_trial_boots_from_a_disk_that_cannot_be_written(
    board: Board, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(board, make())
    (board.root / "lock").unlink()
    (board.root / "lock").mkdir()  # opening it fails, for root too
    assert board.boot().counter == 1


def test_a_first_release_whose_trial_was_cut_off_is_tried_again(board: Board, make: Make) -> None:
    class PowerCut(NoService):
        def watch(self) -> None:
            raise SystemError

    board.service = PowerCut()
    with pytest.raises(SystemError):
        put(board, make(counter=5))
    assert board.boot().trial
    board.service = CommandService(("false",))
    cut = (board.root / "state.json").read_bytes()
    with pytest.raises(CheckError, match="nothing is flown now"):
        put(board, make(counter=5))
    (board.root / "state.json").write_bytes(cut)
    board.service = NoService()
    state = put(board, make(counter=5))
    assert (state.current, state.previous, state.trial, state.counter) == ("b", None, False, 5)


class SayingNo(Disk):
    """Cannot write the state that marks the trial good."""

    def step(self, what: str, path: Path) -> None:
        if what == "rename" and b'"trial":false' in path.with_name("state.json.new").read_bytes():
            self.step = lambda what, path: None  # type: ignore[method-assign]
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_a_disk_that_fails_after_the_watch_leaves_no_trial(board: Board, make: Make) -> None:
    put(board, make(counter=1))
    state = board.state()
    newer = dataclasses.replace(state, slots={**state.slots, "b": state.slots["a"]})
    board.disk = SayingNo()
    with pytest.raises(OSError, match="Input/output error"):
        board.switch(newer, "b", "install")
    after = board.state()
    assert (after.current, after.trial, after.history[-1]["event"]) == ("a", False, "back")


def test_a_signal_after_the_watch_leaves_no_trial(board: Board, make: Make) -> None:
    put(board, make(counter=1))

    def late() -> float:
        if board.state().trial:
            board.clock = lambda: START_2026
            raise KeyboardInterrupt
        return START_2026

    board.clock = late
    with pytest.raises(KeyboardInterrupt):
        put(board, make(counter=2))
    assert (flown(board), board.state().trial) == (1, False)


def test_an_interrupt_during_the_watch_goes_back(board: Board, make: Make) -> None:
    put(board, make(counter=1))

    class Interrupted(NoService):
        def watch(self) -> None:
            raise KeyboardInterrupt

    board.service = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        put(board, make(counter=2))
    assert (flown(board), board.state().trial) == (1, False)


def test_a_changed_slot_is_found(board: Board, make: Make) -> None:
    put(board, make())
    board.check_slot("a")
    graph = board.release("a") / "stream.int8.onnxruntime.onnx"
    data = bytearray(graph.read_bytes())
    data[1000] ^= 1
    graph.write_bytes(data)
    with pytest.raises(CheckError, match="is not the file that was signed"):
        board.check_slot("a")
    graph.unlink()
    with pytest.raises(CheckError, match=r"lacks stream\.int8"):
        board.check_slot("a")


def test_timing_caches_lie_beside_the_release(board: Board, make: Make, tmp_path: Path) -> None:
    (tmp_path / "nano.timing").write_bytes(b"cache")
    put(board, make(timing_caches=(tmp_path / "nano.timing",)))
    assert (board.slot("a") / "caches" / "nano.timing").read_bytes() == b"cache"
    board.check_slot("a")


# The commands.


def test_the_commands_do_it_all(
    command: Command, make: Make, public: Path, video: Path, tmp_path: Path
) -> None:
    root = tmp_path / "drone"

    def device(*words: str | Path, code: int = 0) -> Outcome:
        outcome = command("device", *words, "--root", root)
        assert outcome.code == code, outcome.err
        return outcome

    assert "no release" in device("status").out
    device("trust", public)
    told = json.loads(device("install", make(counter=1), "--json").out)
    assert (told["counter"], told["slot"], told["state"], told["precision"]) == (1, "a", "good", "int8")
    assert "marked good" in device("install", make(counter=2)).err
    status = json.loads(device("status", "--json").out)
    assert (status["counter"], status["previous"]) == (2, 1)
    run = command("run", video, "--release", status["path"], "--precision", status["precision"], "--json")
    assert json.loads(run.out)["frames"] == 12
    assert device("verify").out.count("is what was signed") == 2
    device("rollback")
    device("boot")
    assert [row["event"] for row in json.loads(device("history", "--json").out)] == ["install"] * 2 + [
        "rollback"
    ]
    refused = device("install", make(counter=1, runtime="0.0.1"), code=1)
    assert refused.err.splitlines()[-1].startswith("aerogaze: the bundle has counter 1")
    device("rollback", code=0)


def test_a_service_becomes_what_flies(make: Make, public: Path, command: Command, tmp_path: Path) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    command("device", "install", make(), "--root", root)
    words = [sys.executable, "-m", "edge.command", "device", "exec", "--root", str(root)]
    done = subprocess.run([*words, "echo", "{release}", "{precision}"], capture_output=True, text=True)
    assert done.stdout == f"{root}/slots/a/release int8\n"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"colour": 1}', "may have autopilot, engine, policy, service"),
        ('{"engine": "gpu"}', "unknown engine 'gpu'"),
        ('{"policy": "best"}', "policy 'best'; expected one as"),
        ('{"service": {}}', "service needs restart"),
        ('{"service": {"restart": "systemctl"}}', "must be a command as a list of words"),
        ('{"service": {"restart": ["x"], "watch_s": 1e9}}', "must be a number of seconds, at most 60"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    command: Command, tmp_path: Path, config: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b'{"schema":1}\n', b'{"schema":2}\n', b"\xff",
     b'{"counter":0,"current":"a","history":[],"previous":null,"schema":1,"seen_at":0,"slots":{},"trial":false}\n'],
)  # fmt: skip
def test_a_state_that_somebody_else_wrote_is_one_line(command: Command, tmp_path: Path, state: bytes) -> None:
    (tmp_path / "state.json").write_bytes(state)
    outcome = command("device", "status", "--root", tmp_path)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_a_cut_ssh_session_takes_a_trial_back(
    make: Make, public: Path, command: Command, tmp_path: Path
) -> None:
    root = tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    command("device", "install", make(counter=1), "--root", root)
    service = {"restart": ["true"], "health": ["true"], "watch_s": 30}
    (root / "config.json").write_text(json.dumps({"service": service}))
    words = ["device", "install", str(make(counter=2)), "--root", str(root)]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.command", *words], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "watching the service" in line:
            break
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.wait(timeout=20)
    status = json.loads(command("device", "status", "--root", root, "--json").out)
    assert (status["counter"], status["state"]) == (1, "good")


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="no setpriv on this machine")
def test_an_unprivileged_user_is_told_in_one_line() -> None:
    if (probe := as_nobody("pass")).returncode:
        pytest.skip(f"user 65534 cannot start this Python: {probe.stderr.strip().splitlines()[-1]}")
    with tempfile.TemporaryDirectory() as locked:  # pytest's own folders let nobody else in
        Path(locked).chmod(0o555)
        code = (
            "import sys; from edge.command import _exit_code; "
            "sys.exit(_exit_code(['device', 'rollback', '--root', sys.argv[1]]))"
        )
        done = as_nobody(code, str(Path(locked) / "drone"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot write the board" in done.stderr


def as_nobody(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    lower = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.getuid() == 0 else []
    return subprocess.run([*lower, sys.executable, "-c", code, *words], capture_output=True, text=True)
