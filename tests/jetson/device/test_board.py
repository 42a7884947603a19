"""Installs on a board: what is accepted, what is rejected, and which release is flown afterwards."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.hardware.board import read_board_facts
from edge.hardware.gpu import detect_gpu
from edge.profiler.measurement.energy import measure_energy
from edge.release.manifest import RELEASE_MANIFEST, load_release
from edge.release.release import GOLDEN_FILE
from jetson.bundle.manifest import Compatibility
from jetson.device.board import DeviceBoard
from jetson.device.engine_trial import (
    AutomaticBackend,
    OnnxRuntimeBackend,
    TensorRTBackend,
    select_backend,
)
from jetson.device.precision_policy import PrecisionMeasurement, parse_policy
from jetson.device.service import NoService
from jetson.device.slot_state import save_state
from jetson.signing.keys import SigningKey, generate_key, read_limited
from jetson.signing.trust import load_trust_document, make_trust, write_trust
from tests.conftest import Outcome
from tests.support.boards import ORIN, START_2026, copy_release, flown_counter, install_bundle
from tests.support.clocks import SteppingClock
from tests.support.cuda_backends import import_rtx
from tests.support.disks import FakeBackend

Command = Callable[..., Outcome]
MakeBundle = Callable[..., Path]


def test_installs_alternate_between_two_slots(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    for counter, slot in ((1, "a"), (2, "b"), (3, "a")):
        state = install_bundle(board, make_bundle(counter=counter))
        assert (state.current, state.trial, state.counter) == (slot, False, counter)
        assert load_release(board.release_folder(state.current or "a")).name == "skd-64"
    assert board.rollback().counter == 3, "the highest counter stays"
    assert flown_counter(board) == 2
    assert [row["event"] for row in board.read_state().history] == ["install"] * 3 + ["rollback"]


def test_installing_the_current_release_changes_nothing_without_reinstall(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    path = make_bundle()
    install_bundle(board, path)
    before = (board.root / "state.json").read_bytes()
    install_bundle(board, path)
    assert (board.root / "state.json").read_bytes() == before
    assert install_bundle(board, path, reinstall=True).current == "b"


def test_lower_counter_is_rejected_without_override(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle(counter=5))
    with pytest.raises(CheckError, match="has counter 4, this board has flown 5"):
        install_bundle(board, make_bundle(counter=4))
    with pytest.raises(CheckError, match="another release with counter 5 is on the board"):
        install_bundle(board, make_bundle(counter=5, runtime="0.0.1"))
    over = make_bundle(counter=3, over=5)
    assert install_bundle(board, over).counter == 5
    assert flown_counter(board) == 3
    install_bundle(board, make_bundle(counter=6))
    with pytest.raises(CheckError, match="has counter 3, this board has flown 6"):
        install_bundle(board, over)  # the override does not apply to a higher counter


def test_second_release_with_the_same_counter_is_rejected_after_rollback(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    install_bundle(board, make_bundle(counter=5))
    six = make_bundle(counter=6)
    install_bundle(board, six)
    board.rollback()
    with pytest.raises(CheckError, match="another release with counter 6 is on the board"):
        install_bundle(board, make_bundle(counter=6, runtime="0.0.1"))
    assert flown_counter(board) == 5
    assert install_bundle(board, six).counter == 6
    over = make_bundle(counter=5, over=6)  # the other slot has another release with counter 5
    install_bundle(board, over)
    assert flown_counter(board) == 5


@pytest.mark.parametrize(
    ("metadata", "message"),
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
def test_incompatible_bundle_is_rejected_before_anything_is_written(
    board: DeviceBoard, make_bundle: MakeBundle, metadata: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        install_bundle(board, make_bundle(**metadata))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


@pytest.mark.parametrize(
    ("runtime", "fits"),
    [("0.2.0.dev0", True), ("0.1.9", True), ("0.2.0.dev1", False), ("0.2.0rc1", False), ("0.2.0", False)],
)
def test_board_with_a_development_version_is_older_than_the_release(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, runtime: str, fits: bool
) -> None:
    monkeypatch.setattr("jetson.device.install.version", lambda name: "0.2.0.dev0")
    bundle = make_bundle(runtime=runtime)
    if fits:
        assert install_bundle(board, bundle).counter == 1
        return
    with pytest.raises(CheckError, match=f"needs aerogaze {runtime}, the board has 0.2.0.dev0: update it"):
        install_bundle(board, bundle)


@pytest.mark.parametrize("expires", ["2026-01-01", "9999-12-31"])
def test_compatible_bundle_is_installed(board: DeviceBoard, make_bundle: MakeBundle, expires: str) -> None:
    fits = Compatibility(("agx-orin", "orin-nano"), ("8.7",), ("6.2",), ("10.3",))
    assert install_bundle(board, make_bundle(compatible=fits, expires=expires)).counter == 1


def test_unknown_board_rejects_bundle_for_a_named_board(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    board.facts = read_board_facts(board.root)
    with pytest.raises(CheckError, match="here is no known one"):
        install_bundle(board, make_bundle(compatible=Compatibility(boards=("orin-nano",))))


def test_expired_bundle_is_rejected_after_the_clock_fell_back(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    ends = make_bundle(counter=2, expires="2026-01-31")
    board.clock = lambda: 60.0
    install_bundle(board, make_bundle(counter=1, expires="2025-01-31"))
    board.clock = lambda: START_2026 + 90 * 86400
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        install_bundle(board, ends)
    board.policy = parse_policy("fastest within p99<=.0001")
    with pytest.raises(CheckError, match="no precision may fly"):
        install_bundle(board, make_bundle(counter=2))  # it was written, so the board remembers the date
    board.clock = lambda: 60.0
    with pytest.raises(CheckError, match="expired after 2026-01-31"):
        install_bundle(board, make_bundle(counter=3, expires="2026-01-31"))


def test_remembered_day_of_a_wrong_clock_is_named_and_can_be_reset(
    board: DeviceBoard, make_bundle: MakeBundle, command: Callable[..., Outcome]
) -> None:
    year_2100 = 4102444800
    board.clock = lambda: float(year_2100)
    install_bundle(board, make_bundle(counter=1))
    board.clock = lambda: START_2026 + 86400.0
    ends = make_bundle(counter=2, expires="2026-01-31")
    message = r"once stood at 2100-01-01, .* and stands at 2026-01-02 now: .*aerogaze device reset-clock"
    with pytest.raises(CheckError, match=message):
        install_bundle(board, ends)
    outcome = command("device", "reset-clock", "--root", board.root)
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith("now; it was 2100-01-01\n")
    assert board.reset_clock()[1] == START_2026 + 86400
    assert install_bundle(board, ends).counter == 2


def test_wrong_clock_of_any_size_is_named(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    board.clock = lambda: float(1 << 39)
    install_bundle(board, make_bundle(counter=1))
    board.clock = lambda: 60.0
    with pytest.raises(CheckError, match=r"once stood at a day after the year 9999, .* at 1970-01-01 now"):
        install_bundle(board, make_bundle(counter=2, expires="2026-01-31"))


@pytest.mark.parametrize("seconds", [-1.0, -1e12, float(1 << 40), 1e15, 1e300])
def test_state_written_by_any_clock_can_be_read(
    board: DeviceBoard, make_bundle: MakeBundle, seconds: float
) -> None:
    board.clock = lambda: seconds
    install_bundle(board, make_bundle(counter=1))
    install_bundle(board, make_bundle(counter=2))
    board.rollback()
    board.reset_clock()
    assert board.read_state().seen_at == (0 if seconds < 0 else (1 << 40) - 1)
    board.clock = lambda: START_2026
    board.reset_clock()
    assert install_bundle(board, make_bundle(counter=3, expires="2026-02-01")).counter == 3


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_lock_of_the_board_is_for_its_owner_only(board: DeviceBoard, umask: int) -> None:
    (board.root / "lock").chmod(0o644)  # as older versions made it
    before = os.umask(umask)
    try:
        with board.lock():
            assert stat.S_IMODE((board.root / "lock").stat().st_mode) == 0o600
            assert stat.S_IMODE((board.root / "running.json").stat().st_mode) == 0o644
    finally:
        os.umask(before)
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


def test_unwatched_trial_is_reverted_whoever_holds_another_lock(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    install_bundle(board, make_bundle(counter=1))
    install_bundle(board, make_bundle(counter=2))
    save_state(board.disk, board.root, dataclasses.replace(board.read_state(), trial=True))
    marker = board.root / "running.json"
    with board.lock():
        slot = board.slot_to_run()
        assert slot is not None
        assert slot[0] == "b", "a command watches the trial"
        row = json.loads(marker.read_text())
    marker.write_text(json.dumps(row))  # left by a power cut or kill
    slot = board.slot_to_run()
    assert slot is not None
    assert slot[0] == "a"


def test_changed_bundle_is_rejected_before_anything_is_written(
    board: DeviceBoard, make_bundle: MakeBundle, key: SigningKey, tmp_path: Path
) -> None:
    data = make_bundle().read_bytes()
    spoilt = tmp_path / "spoilt.swu"
    for content in (data[:-700], data[:5000] + b"\1" + data[5001:], data + b"\0", b"", b"x" * 4096):
        spoilt.write_bytes(content)
        with pytest.raises((InputError, CheckError)):
            install_bundle(board, spoilt)
    with pytest.raises(CheckError, match="signed by 0 of the trusted keys"):
        install_bundle(board, make_bundle(generate_key(tmp_path / "other")))
    assert sorted(p.name for p in board.root.iterdir()) == ["lock", "trust.json"]


def test_board_without_trusted_keys_rejects_bundles(tmp_path: Path, bundle: Path) -> None:
    board = DeviceBoard(tmp_path / "b", ORIN, FakeBackend(), parse_policy("fastest"), NoService())
    with pytest.raises(InputError, match="trusts no key yet: aerogaze device trust"):
        install_bundle(board, bundle)


def test_new_trust_needs_signatures_of_the_old_keys(
    board: DeviceBoard, make_bundle: MakeBundle, key: SigningKey, tmp_path: Path
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
        install_bundle(board, make_bundle())
    assert install_bundle(board, make_bundle(other)).current == "a"


def test_trust_document_is_read_only_once(
    command: Command, key: SigningKey, public_key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = tmp_path / "t.json", tmp_path / "drone"
    command("device", "trust", public_key_file, "--root", root)
    before = (root / "trust.json").read_bytes()
    honest, evil = generate_key(tmp_path / "honest"), generate_key(tmp_path / "evil")
    write_trust(make_trust([honest.public_key], version=2), [key], path)
    signed = path.read_bytes()
    write_trust(make_trust([evil.public_key], version=2), [], path)
    reads = 0

    def swap_after_first_read(path: Path, expected: str) -> bytes:
        nonlocal reads
        data = read_limited(path, expected)
        reads += 1
        if reads == 2:
            path.write_bytes(signed)
        return data

    monkeypatch.setattr("jetson.signing.trust.read_limited", swap_after_first_read)
    refused = command("device", "trust", path, "--root", root)
    assert refused.code == 1
    assert "signed by 0 of the trusted keys" in refused.err
    assert reads == 1
    assert (root / "trust.json").read_bytes() == before


def test_too_little_space_is_reported_before_anything_is_written(
    board: DeviceBoard, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(board.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(InputError, match="has 1 MiB free"):
        install_bundle(board, make_bundle())
    assert not (board.root / "slots").exists()


def test_install_is_refused_if_no_precision_meets_the_policy(
    board: DeviceBoard, make_bundle: MakeBundle
) -> None:
    install_bundle(board, make_bundle())
    board.backend = FakeBackend(
        PrecisionMeasurement("fp32", 1.0, 9.0, 30.0),
        PrecisionMeasurement("int8", 0.9, 1.0, 2.0),
        PrecisionMeasurement("fp16", 0, 0, 0, "gives NaN"),
    )
    board.policy = parse_policy("fastest within cc>=.99 and p99<=20ms")
    with pytest.raises(CheckError) as refused:
        install_bundle(board, make_bundle(counter=2))
    for reason in ("fp32: p99 30.00 > 20 ms", "int8: cc 0.9000 < 0.99", "fp16: gives NaN"):
        assert reason in str(refused.value)
    assert flown_counter(board) == 1
    assert board.read_state().history[-1]["event"] == "refused"
    assert not board.slot_folder("b").exists()
    board.policy = parse_policy("closest")
    assert install_bundle(board, make_bundle(counter=2)).current_slot.precision == "fp32"  # type: ignore[union-attr]


def flip_golden_maps(folder: Path) -> None:
    """Mirror the golden maps of a release, and update its hashes."""
    with np.load(folder / GOLDEN_FILE) as golden:
        np.savez_compressed(folder / GOLDEN_FILE, frames=golden["frames"], maps=golden["maps"][:, ::-1])
    document = json.loads((folder / RELEASE_MANIFEST).read_text())
    path = folder / GOLDEN_FILE
    document["files"][GOLDEN_FILE] = {"sha256": sha256(path), "size_bytes": path.stat().st_size}
    (folder / RELEASE_MANIFEST).write_text(json.dumps(document))


def test_install_is_refused_if_the_golden_set_fails(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    board.backend = OnnxRuntimeBackend()
    install_bundle(board, make_bundle())
    spoilt = copy_release(tmp_path / "spoilt", "int8")
    flip_golden_maps(spoilt)
    with pytest.raises(CheckError, match="does not give its golden maps"):
        install_bundle(board, make_bundle(counter=2, release=spoilt))
    assert flown_counter(board) == 1


def test_onnxruntime_engines_are_measured_and_the_policy_selects(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    board.backend = OnnxRuntimeBackend()
    board.policy = parse_policy("closest within cc>=.995 and p99<=1000")
    slot = install_bundle(
        board, make_bundle(release=copy_release(tmp_path / "two", "fp32", "int8"))
    ).current_slot
    assert slot is not None
    assert slot.precision == "fp32"
    assert [row["precision"] for row in slot.measured] == ["fp32", "int8"]
    for row in slot.measured:
        assert row["cc"] > 0.995
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["open_s"] > 0


class FixedPowerMeter:
    """Energy meter that reports 5 W."""

    description = "fixed"

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s

    def start(self) -> None:
        self._start_s = self._now_s()

    def stop(self) -> float:
        return 5 * (self._now_s() - self._start_s)


def test_power_bound_uses_the_meter_and_fails_without_one(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.backend = OnnxRuntimeBackend()
    clock = SteppingClock(step_ns=50_000_000)

    def now_s() -> float:
        return clock() / 1e9

    monkeypatch.setattr(
        "edge.profiler.measurement.sampler.measure_energy", partial(measure_energy, now=now_s)
    )
    monkeypatch.setattr(
        "jetson.device.engine_trial.find_energy_meter", lambda root, nvml: FixedPowerMeter(now_s)
    )
    monkeypatch.setattr("edge.profiler.measurement.sampler.POWER_S", 0.2)
    board.policy = parse_policy("fastest within power<=6W")
    slot = install_bundle(board, make_bundle(release=copy_release(tmp_path / "one", "int8"))).current_slot
    assert slot is not None
    assert slot.measured[0]["power_w"] == pytest.approx(5)
    board.policy = parse_policy("fastest within power<=4W")
    with pytest.raises(CheckError, match=r"int8: power 5\.0 > 4 W"):
        install_bundle(board, make_bundle(counter=2, release=copy_release(tmp_path / "two", "int8")))
    monkeypatch.setattr("jetson.device.engine_trial.find_energy_meter", lambda root, nvml: "none here")
    with pytest.raises(CheckError, match="int8: power is not known"):
        install_bundle(board, make_bundle(counter=2, release=copy_release(tmp_path / "three", "int8")))


def test_auto_selects_tensorrt_if_its_module_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((None, "onnxruntime"), (object(), "tensorrt")):
        monkeypatch.setattr("jetson.device.engine_trial.find_spec", lambda name, module=module: module)
        assert select_backend("auto").name == name


def test_tensorrt_engines_are_built_and_refused_without_a_gpu(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    import_rtx()
    board.backend = TensorRTBackend("rtx")
    lines: list[str] = []
    board.log = lines.append
    with pytest.raises(CheckError, match="no NVIDIA GPU here"):
        install_bundle(board, make_bundle(release=copy_release(tmp_path / "r", "fp32")))
    assert any("built stream.fp32.engine" in line for line in lines)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("local", "tensorrt cannot be imported"), ("rtx", "fp32: there is no NVIDIA GPU here")],
)
def test_auto_flies_on_onnx_runtime_and_says_why_if_tensorrt_runs_nothing(
    board: DeviceBoard,
    make_bundle: MakeBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    reason: str,
) -> None:
    if importlib.util.find_spec("tensorrt") or detect_gpu():
        pytest.skip("needs a machine without GPU and TensorRT, and this one has one of them")
    if target == "rtx":
        import_rtx()
    monkeypatch.setattr("jetson.device.engine_trial.TensorRTBackend", lambda: TensorRTBackend(target))
    board.backend, lines = AutomaticBackend(), list[str]()
    board.log = lines.append
    slot = install_bundle(board, make_bundle(release=copy_release(tmp_path / "r", "fp32"))).current_slot
    assert slot is not None
    assert slot.engine == "onnxruntime"
    assert f"; not TensorRT: {reason}" in slot.why
    assert any(line.startswith(f"onnxruntime instead of tensorrt: {reason}") for line in lines)


def test_install_fails_with_tensorrts_words_if_no_precision_can_be_built(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_rtx()

    def refuse(*_: object) -> None:
        raise InputError("TensorRT 1 cannot build the graph: no implementation")

    monkeypatch.setattr("export.engines.build.build_plan", refuse)
    board.backend = TensorRTBackend("rtx")
    message = r"no precision may fly .*fp32: stream\.fp32\.onnx: TensorRT 1 cannot build .*no implementation"
    with pytest.raises(CheckError, match=message):
        install_bundle(board, make_bundle(release=copy_release(tmp_path / "r", "fp32")))
    assert board.read_state().current is None


def test_verify_slot_detects_changed_and_missing_files(board: DeviceBoard, make_bundle: MakeBundle) -> None:
    install_bundle(board, make_bundle())
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


def test_timing_caches_are_stored_next_to_the_release(
    board: DeviceBoard, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (tmp_path / "nano.timing").write_bytes(b"cache")
    install_bundle(board, make_bundle(timing_caches=(tmp_path / "nano.timing",)))
    assert (board.slot_folder("a") / "caches" / "nano.timing").read_bytes() == b"cache"
    board.verify_slot("a")
