"""Tests of activation ranges over frames: constant memory, caching, and resuming after a kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder
from calibration.ranges import activation_ranges, histogram_cache
from calibration.ranges.activation_ranges import activation_names, count_histograms
from calibration.ranges.histogram import Histogram
from edge.preprocessing.transform import Preprocessing
from edge.release.release import StateSpec
from tests.support.onnx_graphs import SIDE, encoder_decoder_network

FEEDER = InputFeeder(Preprocessing(SIDE, SIDE), ("x",), "y")


def frames(number: int, seed: int = 0) -> CalibrationFrames:
    windows = np.random.default_rng(seed).integers(0, 256, (number, 1, SIDE, SIDE, 3), np.uint8)
    return CalibrationFrames(windows, windows, windows[:1, 0], "noise")


def are_equal(a: dict[str, Histogram], b: dict[str, Histogram]) -> bool:
    return a.keys() == b.keys() and all(
        (a[k].counts == b[k].counts).all() and (a[k].low, a[k].high) == (b[k].low, b[k].high) for k in a
    )


def test_histograms_are_loaded_from_the_cache_for_the_same_graph_and_frames(tmp_path: Path) -> None:
    model, counted = encoder_decoder_network(), list[int]()
    first = count_histograms(model, FEEDER, frames(6), tmp_path, counted.append)
    assert counted == [0, 1, 1, 1, 1, 1, 1]
    counted.clear()
    assert are_equal(count_histograms(model, FEEDER, frames(6), tmp_path, counted.append), first)
    assert counted == [6]
    for other in (frames(6, seed=1), frames(5)):
        counted.clear()
        assert not are_equal(count_histograms(model, FEEDER, other, tmp_path, counted.append), first)
        assert counted[0] == 0
    changed = encoder_decoder_network()
    changed.graph.node[0].name = "other"
    count_histograms(changed, FEEDER, frames(6), tmp_path, counted.append)
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_count_resumes_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    model, total = encoder_decoder_network(), 0

    def kill(count: int) -> None:
        nonlocal total
        total += count
        if total == 4:
            raise Killed

    monkeypatch.setattr(activation_ranges, "SAVE_EVERY_S", 0.0)
    with pytest.raises(Killed):
        count_histograms(model, FEEDER, frames(9), tmp_path, kill)
    counted = list[int]()
    resumed = count_histograms(model, FEEDER, frames(9), tmp_path, counted.append)
    assert counted == [3, 1, 1, 1, 1, 1, 1]  # the fourth was not saved yet
    assert are_equal(resumed, count_histograms(model, FEEDER, frames(9)))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive"])
def test_damaged_cache_file_is_replaced(tmp_path: Path, damage: bytes) -> None:
    model = encoder_decoder_network()
    expected = count_histograms(model, FEEDER, frames(3), tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(damage)
    assert are_equal(count_histograms(model, FEEDER, frames(3), tmp_path), expected)


def test_cache_that_cannot_be_written_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    count_histograms(encoder_decoder_network(), FEEDER, frames(3), tmp_path / "file" / "cache")
    assert capsys.readouterr().err.count("ranges are not cached: cannot write") == 1


def test_cache_deletes_files_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram_cache, "MAX_FILES", 2)
    histogram = Histogram()
    histogram.add(np.ones(3, np.float32))
    for number in range(4):
        histogram_cache.save_histograms(tmp_path / f"{number}.npz", 1, {"x": histogram})
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_constants_are_not_activations() -> None:
    model = encoder_decoder_network()
    names = activation_names(model)
    assert names[0] == "x"
    assert "second.w" not in names
    assert {"pooled", "y", "second.raw"} <= set(names)


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    """Peak memory of a process that counts over 40 windows and of one over 2000, in KiB."""
    onnx.save(encoder_decoder_network(), tmp_path / "m.onnx")
    script = (
        "import sys, resource, onnx, numpy as np\n"
        "from tests.calibration.ranges.test_activation_ranges import FEEDER\n"
        "from calibration.ranges.activation_ranges import collect_ranges\n"
        f"model = onnx.load({str(tmp_path / 'm.onnx')!r})\n"
        f"feed = {{'x': np.ones((1, 3, {SIDE}, {SIDE}), np.float32)}}\n"
        "collect_ranges(model, (feed for _ in range(int(sys.argv[1]))), 'minmax')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    few, many = (
        int(subprocess.run([sys.executable, "-c", script, str(n)], capture_output=True, check=True).stdout)
        for n in (40, 2000)
    )
    assert many - few < 20_000  # the activations of 2000 feeds are 450 MB


def test_cache_identity_of_a_feeder_is_the_same_in_every_process() -> None:
    feeder = InputFeeder(Preprocessing(SIDE, SIDE), ("frame",), "saliency")
    assert " at 0x" not in feeder.cache_identity


def test_cache_identity_of_a_feeder_stays_as_it_was_first_stored() -> None:
    states = (StateSpec("h", "h_out", (1, 2), 0.0), StateSpec("p", "p_out", (1, 3), 0.5, 0.2))
    feeder = InputFeeder(abs, ("frame",), "saliency", states, looks_ahead=True)  # type: ignore[arg-type]
    assert feeder.cache_identity == (
        "Feeding(prepare=<built-in function abs>, inputs=('frame',), output='saliency', "
        "states=(State(input='h', output='h_out', shape=(1, 2), start=0.0, lag_s=0.0), "
        "State(input='p', output='p_out', shape=(1, 3), start=0.5, lag_s=0.2)), ahead=True)"
    )
    assert "states=(), ahead=False" in FEEDER.cache_identity
