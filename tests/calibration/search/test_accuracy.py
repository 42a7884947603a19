"""Tests of the accuracy budget, and of the windows that a graph is evaluated on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from calibration.inputs.calibration_frames import Windows
from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.search import accuracy
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, Quality, compute_maps
from edge.core.errors import InputError
from tests.support.onnx_graphs import residual_network


def test_budget_fraction_is_that_of_the_tighter_limit() -> None:
    quality = Quality(30, 0.996, 0.002)
    assert AccuracyBudget.parse("cc=0.008").fraction_used(quality) == pytest.approx(0.5)
    assert AccuracyBudget.parse("cc=0.008, kld=0.001").fraction_used(quality) == pytest.approx(2)


def test_budget_text_that_is_not_understood_is_refused() -> None:
    for text in ("", "cc", "cc=0", "cc=2", "psnr=1", "cc=.1,cc=.2", "cc=nan"):
        with pytest.raises(InputError, match="is not understood"):
            AccuracyBudget.parse(text)


def test_maps_with_nan_exceed_every_budget() -> None:
    for budget in (AccuracyBudget(cc=0.005), AccuracyBudget(kld=0.005), AccuracyBudget(0.005, 0.005)):
        assert budget.fraction_used(Quality(float("nan"), float("nan"), float("nan"))) > 1


def test_subset_has_the_maps_of_its_windows() -> None:
    model, feeder = residual_network(), InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    windows = np.random.default_rng(0).integers(0, 256, (9, 1, 16, 16, 3), np.uint8)
    whole = AccuracyEvaluator(model, feeder, windows)
    assert whole.subset(model, 9) is whole
    subset, computed = whole.subset(model, 3), AccuracyEvaluator.on_subset(model, feeder, windows, 3)
    np.testing.assert_array_equal(subset.windows, windows[[0, 4, 8]])
    np.testing.assert_array_equal(subset.windows, computed.windows)
    np.testing.assert_array_equal(subset.expected, computed.expected)
    assert len(whole.windows) == len(whole.expected) == 9
    assert subset(model).cc == 1


def test_graph_that_was_evaluated_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeder = residual_network(), InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    windows = np.random.default_rng(0).integers(0, 256, (9, 1, 16, 16, 3), np.uint8)
    whole = AccuracyEvaluator(model, feeder, windows)
    runs: list[int] = []

    def count_runs(model: onnx.ModelProto, feeder: InputFeeder, windows: Windows, *flags: bool) -> list[Any]:
        runs.append(len(windows))
        return compute_maps(model, feeder, windows, *flags)

    monkeypatch.setattr(accuracy, "compute_maps", count_runs)
    changed = residual_network()
    changed.graph.node[0].name = "changed"
    maps, subset = whole.compute_maps(changed), whole.subset(model, 3)
    np.testing.assert_array_equal(whole.compute_maps(changed), maps)
    np.testing.assert_array_equal(subset.compute_maps(changed), [maps[0], maps[4], maps[8]])
    assert runs == [9]
    subset.compute_maps(changed, True)
    subset.compute_maps(changed, True)
    assert runs == [9, 3]
