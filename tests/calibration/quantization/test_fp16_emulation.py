"""Tests of float16 emulation on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from calibration.inputs.graph_inputs import open_session
from calibration.quantization.fp16_emulation import emulate_fp16, unrounded_names
from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from export.graphs.fp16 import to_fp16
from tests.support.onnx_graphs import (
    CANCELLING,
    HARMLESS,
    OVERFLOWING,
    Steps,
    operator_chain,
    random_feeds,
    residual_network,
)


def run(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(open_session(model).run(["y"], random_feeds(1)[0])[0], np.float32)


@pytest.mark.parametrize("steps", [OVERFLOWING, CANCELLING, HARMLESS])
def test_emulated_operators_match_the_onnx_reference(steps: Steps) -> None:
    """Bit by bit, except for Sigmoid: the reference computes its steps in float16."""
    model = to_fp16(operator_chain(*steps), ["x", "y"])
    with np.errstate(over="ignore"):
        (expected,) = ReferenceEvaluator(model).run(["y"], random_feeds(1)[0])
    np.testing.assert_allclose(run(model), np.asarray(expected), atol=5e-4)


def test_emulation_shows_rounding_that_onnx_runtime_hides() -> None:
    single, model = run(operator_chain(*CANCELLING)), to_fp16(operator_chain(*CANCELLING), ["x", "y"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # ONNX Runtime alone shows nothing of the lost digits.
    np.testing.assert_allclose(np.asarray(session.run(["y"], random_feeds(1)[0])[0]), single, atol=1e-3)
    assert np.ptp(single) > 0.4
    assert np.ptp(run(model)) == 0
    assert np.isinf(run(to_fp16(operator_chain(*OVERFLOWING), ["x", "y"]))).mean() > 0.9


def test_onnx_runtime_optimizer_keeps_every_rounding() -> None:
    """The operators give the same bits with and without optimizations."""
    model = emulate_fp16(to_fp16(residual_network(), ["x", "y"]))
    unoptimized = ort.SessionOptions()
    unoptimized.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [name for node in model.graph.node for name in node.output if name.endswith(".float")]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), unoptimized, providers=["CPUExecutionProvider"])
    for values in session.run(names, random_feeds(1)[0]):
        np.testing.assert_array_equal(values, values.astype(np.float16).astype(np.float32))
    unoptimized_map = session.run(["y"], random_feeds(1)[0])[0]
    optimized_map = run(to_fp16(residual_network(), ["x", "y"]))
    np.testing.assert_allclose(optimized_map, unoptimized_map, atol=2e-3)


def test_emulation_keeps_names_and_types_and_leaves_float32_graphs_unchanged() -> None:
    model = to_fp16(residual_network(), [])
    emulated = emulate_fp16(model)
    assert emulated.graph.input == model.graph.input
    assert emulated.graph.output == model.graph.output
    outputs = {output for node in emulated.graph.node for output in node.output}
    assert {unrounded_names(model)["stem"], "stem", "stem.float"} <= outputs
    onnx.checker.check_model(emulated, full_check=True)
    assert emulate_fp16(residual_network()) == residual_network()


def test_quantized_graphs_are_emulated_between_qdq_nodes() -> None:
    model = residual_network()
    ranges = collect_ranges(model, random_feeds(), "minmax")
    half = to_fp16(quantize(model, ranges, TENSORRT), ["x", "y"])
    onnx.checker.check_model(emulate_fp16(half), full_check=True)
    session = open_session(half, disable_qdq_fusion=True, outputs=["stem", "sum1"])
    for values in session.run(["stem", "sum1"], random_feeds(1)[0]):
        assert values.dtype == np.float16
