"""Ranges over frames: bounded, cached by content, gone on with after a kill."""

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
from tests.calibration.quantization.test_qdq import SIDE, network

FEEDING = InputFeeder(Preprocessing(SIDE, SIDE), ("x",), "y")


def frames(number: int, seed: int = 0) -> CalibrationFrames:
    windows = np.random.default_rng(seed).integers(0, 256, (number, 1, SIDE, SIDE, 3), np.uint8)
    return CalibrationFrames(windows, windows, windows[:1, 0], "noise")


def same(a: dict[str, Histogram], b: dict[str, Histogram]) -> bool:
    return a.keys() == b.keys() and all(
        (a[k].counts == b[k].counts).all() and (a[k].low, a[k].high) == (b[k].low, b[k].high) for k in a
    )


def test_what_was_counted_is_not_counted_again(tmp_path: Path) -> None:
    model, told = network(), list[int]()
    first = count_histograms(model, FEEDING, frames(6), tmp_path, told.append)
    assert told == [0, 1, 1, 1, 1, 1, 1]
    told.clear()
    assert same(count_histograms(model, FEEDING, frames(6), tmp_path, told.append), first)
    assert told == [6]
    for other in (frames(6, seed=1), frames(5)):
        told.clear()
        assert not same(count_histograms(model, FEEDING, other, tmp_path, told.append), first)
        assert told[0] == 0
    changed = network()
    changed.graph.node[0].name = "other"
    count_histograms(changed, FEEDING, frames(6), tmp_path, told.append)
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_half_the_frames_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    model, seen = network(), 0

    def kill(more: int) -> None:
        nonlocal seen
        seen += more
        if seen == 4:
            raise Killed

    monkeypatch.setattr(activation_ranges, "SAVE_EVERY_S", 0.0)
    with pytest.raises(Killed):
        count_histograms(model, FEEDING, frames(9), tmp_path, kill)
    told = list[int]()
    resumed = count_histograms(model, FEEDING, frames(9), tmp_path, told.append)
    assert told == [3, 1, 1, 1, 1, 1, 1]  # the fourth was not saved yet
    assert same(resumed, count_histograms(model, FEEDING, frames(9)))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive"])
def test_a_damaged_file_is_counted_anew(tmp_path: Path, damage: bytes) -> None:
    model = network()
    expected = count_histograms(model, FEEDING, frames(3), tmp_path)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(damage)
    assert same(count_histograms(model, FEEDING, frames(3), tmp_path), expected)


def test_where_nothing_can_be_kept_it_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    count_histograms(network(), FEEDING, frames(3), tmp_path / "file" / "cache")
    assert capsys.readouterr().err.count("ranges are not cached: cannot write") == 1


def test_the_cache_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram_cache, "MAX_FILES", 2)
    histogram = Histogram()
    histogram.add(np.ones(3, np.float32))
    for number in range(4):
        histogram_cache.save_histograms(tmp_path / f"{number}.npz", 1, {"x": histogram})
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_constants_are_no_activations() -> None:
    model = network()
    names = activation_names(model)
    assert names[0] == "x"
    assert "second.w" not in names
    assert {"pooled", "y", "second.raw"} <= set(names)


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """Peak of a process that counts over 40 windows and of one over 2000, in KiB."""
    onnx.save(network(), tmp_path / "m.onnx")
    script = (
        "import sys, resource, onnx, numpy as np\n"
        "from tests.calibration.ranges.test_activation_ranges import FEEDING\n"
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
    assert many - few < 20_000  # 2000 feeds' activations are 450 MB


def test_what_is_written_of_a_feeding_is_the_same_in_every_process() -> None:
    told = repr(InputFeeder(Preprocessing(SIDE, SIDE), ("frame",), "saliency"))
    assert " at 0x" not in told
