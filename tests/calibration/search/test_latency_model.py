"""Tests of the latency model."""

from __future__ import annotations

import pytest

from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search.latency_model import ModelledLatency, convolution_mmacs
from tests.support.onnx_graphs import random_feeds, residual_network


def test_modelled_latency_counts_work_bytes_and_changes_of_precision() -> None:
    model = residual_network()
    mmacs = convolution_mmacs(model)
    assert mmacs["a"] == pytest.approx(16 * 16 * 9 * 256 / 1e6)
    assert mmacs["depthwise"] == pytest.approx(32 * 9 * 256 / 1e6)
    ranges = collect_ranges(model, random_feeds(), "minmax")
    timer = ModelledLatency(model)
    one_layer_ms, float_ms = timer(quantize(model, ranges, TENSORRT, {"c"}))
    assert one_layer_ms > float_ms  # Q and DQ around one small layer cost more than it saves
    assert timer(quantize(model, ranges, TENSORRT))[0] < one_layer_ms
    assert "roofline" in str(timer.conditions()["model"])
