"""Tests of the selection of the calibration method for an engine."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.ranges.activation_ranges import count_histograms
from calibration.ranges.histogram import BEST, METHODS
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, Quality
from calibration.search.method_selection import ranges_by_method, rank_methods
from export.graphs.int8 import select_method
from tests.support.onnx_graphs import residual_network

MODEL = residual_network()
FEEDER = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
WINDOWS = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16, 3), np.uint8)
FRAMES = CalibrationFrames(WINDOWS[:6], WINDOWS[6:], WINDOWS[:1, 0], "noise")


class ScriptedEvaluator(AccuracyEvaluator):
    """Returns the losses that the test sets, in turn, instead of evaluating graphs."""

    losses: list[float]

    def __call__(self, model: object, disable_qdq_fusion: bool = False) -> Quality:
        return Quality(30, 1 - self.losses.pop(0), 0)


@pytest.mark.parametrize(
    ("losses", "chosen"), [([0.001], 0), ([0.02, 0.001], 1), ([0.02, 0.03, 0.01, 0.04], 2)]
)
def test_next_method_is_tried_when_one_exceeds_the_budget(losses: list[float], chosen: int) -> None:
    ranges = ranges_by_method(BEST, count_histograms(MODEL, FEEDER, FRAMES))
    assert list(ranges) == list(METHODS)
    order = rank_methods(ranges, MODEL, FEEDER, FRAMES.windows)
    evaluator = ScriptedEvaluator(MODEL, FEEDER, FRAMES.held_out)
    evaluator.losses = losses
    method = select_method("onnxruntime", MODEL, ranges, FRAMES, evaluator, AccuracyBudget(cc=0.005))
    assert method == order[chosen]
    assert not losses


def test_requested_method_is_used() -> None:
    ranges = ranges_by_method("mse", count_histograms(MODEL, FEEDER, FRAMES))
    evaluator = ScriptedEvaluator(MODEL, FEEDER, FRAMES.held_out)
    assert select_method("tensorrt", MODEL, ranges, FRAMES, evaluator, AccuracyBudget(cc=0.005)) == "mse"
