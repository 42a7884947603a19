"""Which method's ranges an engine gets."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.ranges.activation_ranges import count_histograms
from calibration.ranges.histogram import METHODS
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, Quality
from calibration.search.method_selection import BEST, ranges_by_method, rank_methods
from export.graphs.int8 import select_method
from tests.calibration.quantization.test_qdq_placement import residual

MODEL = residual()
FEEDING = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
WINDOWS = np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16, 3), np.uint8)
FRAMES = CalibrationFrames(WINDOWS[:6], WINDOWS[6:], WINDOWS[:1, 0], "noise")


class Strict(AccuracyEvaluator):
    """Says of the graphs that it judges, in turn, what the test wants."""

    said: list[float]

    def __call__(self, model: object, plain: bool = False) -> Quality:
        return Quality(30, 1 - self.said.pop(0), 0)


@pytest.mark.parametrize(("said", "taken"), [([0.001], 0), ([0.02, 0.001], 1), ([0.02, 0.03, 0.01, 0.04], 2)])
def test_where_one_breaks_the_budget_the_others_are_tried(said: list[float], taken: int) -> None:
    by = ranges_by_method(BEST, count_histograms(MODEL, FEEDING, FRAMES))
    assert list(by) == list(METHODS)
    order = rank_methods(by, MODEL, FEEDING, FRAMES.windows)
    judge = Strict(MODEL, FEEDING, FRAMES.held_out)
    judge.said = said
    assert select_method("onnxruntime", MODEL, by, FRAMES, judge, AccuracyBudget(cc=0.005)) == order[taken]
    assert not said


def test_a_method_that_was_asked_for_stays() -> None:
    by = ranges_by_method("mse", count_histograms(MODEL, FEEDING, FRAMES))
    judge = Strict(MODEL, FEEDING, FRAMES.held_out)
    assert select_method("tensorrt", MODEL, by, FRAMES, judge, AccuracyBudget(cc=0.005)) == "mse"
