"""A board: what it takes, what it refuses, and how it goes back."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.hardware.board import read_board_facts
from edge.release.manifest import GOLDEN_FILE, RELEASE_MANIFEST, load_release
from jetson.bundle.manifest import Compatibility
from jetson.device.board import DeviceBoard
from jetson.device.engine_trial import OnnxRuntimeBackend, TensorRTBackend, select_backend
from jetson.device.precision_policy import PrecisionMeasurement, parse_policy
from jetson.device.service import NoService
from jetson.signing import trust as trusts
from jetson.signing.keys import SigningKey, generate_key, read_limited
from jetson.signing.trust import load_trust_document, make_trust, write_trust
from tests.conftest import Outcome
from tests.jetson.conftest import ORIN, START_2026, flown, put, trimmed
from tests.support.disks import FakeBackend

Command = Callable[..., Outcome]
Make = Callable[..., Path]


def test_releases_follow_each_other_in_two_slots(board: DeviceBoard, make: Make) -> None:
    for counter, slot in ((1, "a"), (2, "b"), (3, "a")):
        state = put(board, make(counter=counter))
        assert (state.current, state.trial, state.counter) == (slot, False, counter)
        assert load_release(board.release_folder(state.current or "a")).name == "skd-64"
    assert board.rollback().counter == 3, "the highest counter stays"
    assert flown(board) == 2
    assert [row["event"] for row in board.read_state().history] == ["install"] * 3 + ["rollback"]


def test_the_same_again_changes_nothing_unless_asked(board: DeviceBoard, make: Make) -> None:
    place = make()
    put(board, place)
    before = (board.root / "state.json").read_bytes()
    put(board, place)
    assert (board.root / "state.json").read_bytes() == before
    assert put(board, place, reinstall=True).current == "b"


def test_counters_do_not_go_back(board: DeviceBoard, make: Make) -> None:
    put(board, make(counter=5))
    with pytest.raises(CheckError, match="has counter 4, this board has flown 5"):
        put(board, make(counter=4))
    with pytest.raises(CheckError, match="another release with counter 5 is on the board"):
        put(board, make(counter=5, runtime="0.0.1"))
    over = make(counter=3, over=5)
    assert put(board, over).counter == 5
    assert flown(board) == 3
    put(board, make(counter=6))
    with pytest.raises(CheckError, match="has counter 3, this board has flown 6"):
        put(board, over)  # an override is for boards of its day, and cannot be played again


def test_two_releases_of_one_counter_are_not_taken_one_after_the_other(
    board: DeviceBoard, make: Make
) -> None:
    put(board, make(counter=5))
    six = make(counter=6)
    put(board, six)
    board.rollback()
    with pytest.raises(CheckError, match="another release with counter 6 is on the board"):
        put(board, make(counter=6, runtime="0.0.1"))
    assert flown(board) == 5
    assert put(board, six).counter == 6
    over = make(counter=5, over=6)  # the other slot has another 5
    put(board, over)
    assert flown(board) == 5


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"compatible": Compatibility(boards=("agx-orin",))}, "for board agx-orin; here is orin-nano"),
        ({"compatible": Compatibility(jetpack=("6.1",))}, r"for JetPack 6\.1; here is 6\.2"),
        (
            {"compatible": Compatibility(tensorrt=("10.30", "11"))},
            r"for TensorRT 10\.30, 11; here is 10\.3\.0",
        ),
        (
            {"compatible": Compatibility(compute_capability=("11.0",))},
            r"compute capability 11\.0; here is 8\.7",
        ),
        ({"runtime": "99"}, "needs aerogaze 99"),
        ({"expires": "2025-12-31"}, "expired after 2025-12-31"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    board: DeviceBoard, make: Make, wishes: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        put(board, make(**wishes))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


@pytest.mark.parametrize("expires", ["2026-01-01", "9999-12-31"])
def test_what_fits_is_taken(board: DeviceBoard, make: Make, expires: str) -> None:
    fits = Compatibility(("agx-orin", "orin-nano"), ("8.7",), ("6.2",), ("10.3",))
    assert put(board, make(compatible=fits, expires=expires)).counter == 1


def test_a_board_that_does_not_say_what_it_is_takes_no_bundle_for_one(board: DeviceBoard, make: Make) -> None:
    board.facts = read_board_facts(board.root)
    with pytest.raises(CheckError, match="here is no known one"):
        put(board, make(compatible=Compatibility(boards=("orin-nano",))))


def test_a_clock_at_1970_takes_bundles_but_forgets_no_day(board: DeviceBoard, make: Make) -> None:
    ends = make(counter=2, expires="2026-01-31")
    board.clock = lambda: 60.0
    put(board, make(counter=1, expires="2025-01-31"))
    board.clock = lambda: START_2026 + 90 * 86400
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        put(board, ends)
    board.policy = parse_policy("fastest within p99<=.0001")
    with pytest.raises(CheckError, match="no precision may fly"):
        put(board, make(counter=2))  # begun to be written: from now on the board knows that it is April
    board.clock = lambda: 60.0
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        put(board, make(counter=3, expires="2026-01-31"))


def test_a_bundle_that_was_changed_is_refused_before_anything_is_written(
    board: DeviceBoard, make: Make, key: SigningKey, tmp_path: Path
) -> None:
    data = make().read_bytes()
    spoilt = tmp_path / "spoilt.swu"
    for content in (data[:-700], data[:5000] + b"\1" + data[5001:], data + b"\0", b"", b"x" * 4096):
        spoilt.write_bytes(content)
        with pytest.raises((InputError, CheckError)):
            put(board, spoilt)
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys"):
        put(board, make(generate_key(tmp_path / "other")))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


def test_a_board_that_trusts_nobody_takes_nothing(tmp_path: Path, bundle: Path) -> None:
    board = DeviceBoard(tmp_path / "b", ORIN, FakeBackend(), parse_policy("fastest"), NoService())
    with pytest.raises(InputError, match="trusts no key yet: aerogaze device trust"):
        put(board, bundle)


def test_trust_changes_hands_only_by_those_who_have_it(
    board: DeviceBoard, make: Make, key: SigningKey, tmp_path: Path
) -> None:
    other = generate_key(tmp_path / "o")
    successor = make_trust([other.public_key], version=2)
    with pytest.raises(CheckError, match=r"trusts .* already"):
        board.set_trust(make_trust([other.public_key]), None)
    write_trust(successor, [other], tmp_path / "t.json")
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys"):
        board.set_trust(*load_trust_document(tmp_path / "t.json"))
    write_trust(successor, [key], tmp_path / "t.json")
    board.set_trust(*load_trust_document(tmp_path / "t.json"))
    with pytest.raises(CheckError, match="signed by 0"):
        put(board, make())
    assert put(board, make(other)).current == "a"


def test_trust_changed_while_it_is_read_is_not_taken(
    command: Command, key: SigningKey, public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, root = tmp_path / "t.json", tmp_path / "drone"
    command("device", "trust", public, "--root", root)
    before = (root / "trust.json").read_bytes()
    honest, evil = generate_key(tmp_path / "honest"), generate_key(tmp_path / "evil")
    write_trust(make_trust([honest.public_key], version=2), [key], place)
    signed = place.read_bytes()
    write_trust(make_trust([evil.public_key], version=2), [], place)
    reads = 0

    def swapped(path: Path) -> bytes:
        nonlocal reads
        data = read_limited(path)
        reads += 1
        if reads == 2:
            place.write_bytes(signed)
        return data

    monkeypatch.setattr(trusts, "read_limited", swapped)
    refused = command("device", "trust", place, "--root", root)
    assert refused.code == 1
    assert "signed by 0 of the trusted keys" in refused.err
    assert reads == 1
    assert (root / "trust.json").read_bytes() == before


def test_too_little_room_is_told_before_anything_is_written(
    board: DeviceBoard, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(board.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(InputError, match="has 1 MiB free"):
        put(board, make())
    assert not (board.root / "slots").exists()


def test_a_precision_that_breaks_the_policy_does_not_fly(board: DeviceBoard, make: Make) -> None:
    put(board, make())
    board.backend = FakeBackend(
        PrecisionMeasurement("fp32", 1.0, 9.0, 30.0),
        PrecisionMeasurement("int8", 0.9, 1.0, 2.0),
        PrecisionMeasurement("fp16", 0, 0, 0, "gives NaN"),
    )
    board.policy = parse_policy("fastest within cc>=.99 and p99<=20ms")
    with pytest.raises(CheckError) as refused:
        put(board, make(counter=2))
    for told in ("fp32: p99 30.00 > 20 ms", "int8: cc 0.9000 < 0.99", "fp16: gives NaN"):
        assert told in str(refused.value)
    assert flown(board) == 1
    assert board.read_state().history[-1]["event"] == "refused"
    assert not board.slot_folder("b").exists()
    board.policy = parse_policy("closest")
    assert put(board, make(counter=2)).current_slot.precision == "fp32"  # type: ignore[union-attr]


def spoil_golden(folder: Path) -> None:
    """A release whose golden maps are of something else, in order by its hashes."""
    with np.load(folder / GOLDEN_FILE) as golden:
        np.savez_compressed(folder / GOLDEN_FILE, frames=golden["frames"], maps=golden["maps"][:, ::-1])
    document = json.loads((folder / RELEASE_MANIFEST).read_text())
    path = folder / GOLDEN_FILE
    document["files"][GOLDEN_FILE] = {"sha256": sha256(path), "size_bytes": path.stat().st_size}
    (folder / RELEASE_MANIFEST).write_text(json.dumps(document))


def test_a_release_that_fails_its_golden_set_does_not_fly(
    board: DeviceBoard, make: Make, tmp_path: Path
) -> None:
    board.backend = OnnxRuntimeBackend()
    put(board, make())
    spoilt = trimmed(tmp_path / "spoilt", "int8")
    spoil_golden(spoilt)
    with pytest.raises(CheckError, match="does not give its golden maps"):
        put(board, make(counter=2, release=spoilt))
    assert flown(board) == 1


def test_real_engines_are_tried_and_the_fastest_within_bounds_is_flown(
    board: DeviceBoard, make: Make, tmp_path: Path
) -> None:
    board.backend = OnnxRuntimeBackend()
    board.policy = parse_policy("closest within cc>=.995 and p99<=1000")
    slot = put(board, make(release=trimmed(tmp_path / "two", "fp32", "int8"))).current_slot
    assert slot is not None
    assert slot.precision == "fp32"
    assert [row["precision"] for row in slot.measured] == ["fp32", "int8"]
    for row in slot.measured:
        assert row["cc"] > 0.995
        assert 0 < row["p50_ms"] <= row["p99_ms"]


class Steady:
    """A meter that always takes 5 W."""

    description = "a stand-in"

    def start(self) -> None:
        self._since = time.monotonic()

    def stop(self) -> float:
        return 5 * (time.monotonic() - self._since)


def test_power_is_measured_where_there_is_a_meter(
    board: DeviceBoard, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.backend = OnnxRuntimeBackend()
    monkeypatch.setattr("jetson.device.engine_trial.find_energy_meter", lambda root, nvml: Steady())
    monkeypatch.setattr("edge.profiler.measurement.sampler.BUSY_S", 0.2)
    board.policy = parse_policy("fastest within power<=6W")
    slot = put(board, make(release=trimmed(tmp_path / "one", "int8"))).current_slot
    assert slot is not None
    assert slot.measured[0]["power_w"] == pytest.approx(5, abs=0.1)
    board.policy = parse_policy("fastest within power<=4W")
    with pytest.raises(CheckError, match=r"int8: power 5\.0 > 4 W"):
        put(board, make(counter=2, release=trimmed(tmp_path / "two", "int8")))
    monkeypatch.setattr("jetson.device.engine_trial.find_energy_meter", lambda root, nvml: "none here")
    with pytest.raises(CheckError, match="int8: power is not known"):
        put(board, make(counter=2, release=trimmed(tmp_path / "three", "int8")))


def test_auto_is_tensorrt_where_its_module_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((None, "onnxruntime"), (object(), "tensorrt")):
        monkeypatch.setattr("jetson.device.engine_trial.find_spec", lambda module, there=there: there)
        assert select_backend("auto").name == name


def test_tensorrt_engines_are_built_on_the_board_and_without_a_gpu_not_flown(
    board: DeviceBoard, make: Make, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    board.backend = TensorRTBackend("rtx")
    said: list[str] = []
    board.log = said.append
    with pytest.raises(CheckError, match="no NVIDIA GPU here"):
        put(board, make(release=trimmed(tmp_path / "r", "fp32")))
    assert any("built stream.fp32.engine" in line for line in said)


# Services: real processes, started and asked by commands.


def test_a_changed_slot_is_found(board: DeviceBoard, make: Make) -> None:
    put(board, make())
    board.verify_slot("a")
    graph = board.release_folder("a") / "stream.int8.onnxruntime.onnx"
    data = bytearray(graph.read_bytes())
    data[1000] ^= 1
    graph.write_bytes(data)
    with pytest.raises(CheckError, match="is not the file that was signed"):
        board.verify_slot("a")
    graph.unlink()
    with pytest.raises(CheckError, match=r"lacks stream\.int8"):
        board.verify_slot("a")


def test_timing_caches_lie_beside_the_release(board: DeviceBoard, make: Make, tmp_path: Path) -> None:
    (tmp_path / "nano.timing").write_bytes(b"cache")
    put(board, make(timing_caches=(tmp_path / "nano.timing",)))
    assert (board.slot_folder("a") / "caches" / "nano.timing").read_bytes() == b"cache"
    board.verify_slot("a")
