"""Which method's ranges serve a graph best, where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx

from calibration.inputs.calibration_frames import Windows
from calibration.inputs.graph_inputs import InputFeeder
from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import CPU, QdqScheme
from calibration.ranges.histogram import METHODS, Histogram, Method
from calibration.search.accuracy import AccuracyEvaluator, compare_maps
from edge.release.quantization import TensorRanges

MethodChoice = Literal["best", "entropy", "percentile", "mse", "minmax"]
BEST: MethodChoice = "best"
METHOD_CHOICES: tuple[MethodChoice, ...] = (BEST, *METHODS)
MAX_WINDOWS = 32
"""Windows at most, of those that ranges are made from: those held out judge the result."""


def ranges_by_method(method: MethodChoice, counted: Mapping[str, Histogram]) -> dict[Method, TensorRanges]:
    """Return the ranges by a method; by "best", those by each."""
    return {
        one: {name: histogram.range(one) for name, histogram in counted.items()}
        for one in METHODS
        if method in (BEST, one)
    }


def rank_methods(
    by: Mapping[Method, TensorRanges],
    model: onnx.ModelProto,
    feeder: InputFeeder,
    windows: Windows,
    scheme: QdqScheme = CPU,
    disable_qdq_fusion: bool = False,
) -> list[Method]:
    """Return the methods, that first whose int8 graph for an engine loses least on the calibration window on
    which it loses most (1 - CC + KLD). `disable_qdq_fusion`: as of `AccuracyEvaluator`.

    The worst window and not the mean, for clipping gains a little on most frames and ruins the rare one
    with high values, which in a saliency map are the point. One window says little of a budget, which is of
    means: where the first breaks it, the others are to be tried.
    """
    if len(by) == 1:
        return list(by)
    judge = AccuracyEvaluator.on_subset(model, feeder, windows, MAX_WINDOWS)
    lost: dict[Method, float] = {}
    for one, ranges in by.items():
        maps = judge.compute_maps(quantize(model, ranges, scheme), disable_qdq_fusion)
        each = [compare_maps([got], [wanted]) for got, wanted in zip(maps, judge.expected, strict=True)]
        lost[one] = max(1 - found.cc + found.kld for found in each)
    return sorted(lost, key=lambda one: lost[one])
