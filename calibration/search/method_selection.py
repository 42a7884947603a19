"""Selection of the calibration method whose ranges suit a graph best."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from calibration.inputs.calibration_frames import Windows
from calibration.inputs.graph_inputs import InputFeeder
from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import CPU, QdqScheme
from calibration.ranges.histogram import BEST, METHODS, Histogram, Method, MethodChoice
from calibration.search.accuracy import AccuracyEvaluator, compare_maps
from edge.release.quantization import TensorRanges

MAX_WINDOWS = 32
"""Limit for the calibration windows that methods are ranked on. Held-out windows judge the result."""


def ranges_by_method(choice: MethodChoice, histograms: Mapping[str, Histogram]) -> dict[Method, TensorRanges]:
    """Return the ranges found by the chosen method; for "best", the ranges found by each method."""
    return {
        method: {name: histogram.range(method) for name, histogram in histograms.items()}
        for method in METHODS
        if choice in (BEST, method)
    }


def rank_methods(
    ranges: Mapping[Method, TensorRanges],
    model: onnx.ModelProto,
    feeder: InputFeeder,
    windows: Windows,
    scheme: QdqScheme = CPU,
    disable_qdq_fusion: bool = False,
) -> list[Method]:
    """Return the methods ordered by the loss of their int8 graphs on the calibration windows, best first.

    The loss of a graph is 1 - CC + KLD on its worst window. The mean would favour clipping, which gains a
    little on most frames and ruins the rare ones with high values, and high values matter in a saliency
    map. One window says little about a budget, which limits means: if the first method exceeds the budget,
    try the next one.

    Args:
        ranges: The ranges of each method.
        model: The fp32 graph.
        feeder: Maps a window to the inputs of the graph.
        windows: The calibration windows.
        scheme: The Q/DQ scheme of the engine.
        disable_qdq_fusion: Run Q/DQ nodes as separate operators, see `open_session`.
    """
    if len(ranges) == 1:
        return list(ranges)
    evaluator = AccuracyEvaluator.on_subset(model, feeder, windows, MAX_WINDOWS)
    losses: dict[Method, float] = {}
    for method, method_ranges in ranges.items():
        maps = evaluator.compute_maps(quantize(model, method_ranges, scheme), disable_qdq_fusion)
        qualities = [
            compare_maps([actual], [expected])
            for actual, expected in zip(maps, evaluator.expected, strict=True)
        ]
        losses[method] = max(1 - quality.cc + quality.kld for quality in qualities)
    return sorted(losses, key=lambda method: losses[method])
