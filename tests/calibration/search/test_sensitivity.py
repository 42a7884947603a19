"""Tests of the sensitivity to the quantization of single layers."""

from __future__ import annotations

import numpy as np

from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.onnx_import import ImageInput
from calibration.quantization.qdq_placement import TENSORRT, quantizable_layers
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search.accuracy import AccuracyEvaluator
from calibration.search.sensitivity import measure_sensitivity
from tests.support.onnx_graphs import random_feeds, residual_network


def test_sensitivity_shows_the_effect_of_each_layer() -> None:
    model, layers = residual_network(), quantizable_layers(residual_network(), TENSORRT)
    windows = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 3), np.uint8)
    feeder = InputFeeder(ImageInput(16, 16, 3, "nchw"), ("x",), "y")
    evaluator = AccuracyEvaluator(model, feeder, windows)
    ranges = collect_ranges(model, random_feeds(), "minmax")
    evaluated = list[int]()
    sensitivity = measure_sensitivity(
        model, ranges, TENSORRT, evaluator, evaluated.append, disable_qdq_fusion=True
    )
    assert [layer.layer for layer in sensitivity.layers] == layers
    assert sum(evaluated) == 2 * len(layers) + 1
    assert sensitivity.whole.sqnr_db < min(layer.alone.sqnr_db for layer in sensitivity.layers)
    wide = {**ranges, "c1": (0.0, 400 * ranges["c1"][1])}  # the input of d uses a handful of levels
    spoilt = {layer.layer: layer for layer in measure_sensitivity(model, wide, TENSORRT, evaluator).layers}
    assert min(spoilt, key=lambda name: spoilt[name].alone.cc) == "d"
    assert max(spoilt, key=lambda name: spoilt[name].all_but.cc) == "d"
