"""Tests of float16 emulation on the CPU, and of the diagnostics that name the weakest node."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.quantization.fp16_emulation import UNROUNDED_SUFFIX, emulate_fp16
from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from calibration.search.fp16_diagnostics import describe_overflow, describe_weakest_node
from export.graphs.fp16 import to_fp16
from tests.support.onnx_graphs import random_feeds, residual_network

Steps = tuple[tuple[str, float | None], ...]
OVERFLOWING: Steps = (("Abs", None), ("Mul", 2000.0), ("Mul", 2000.0), ("Sqrt", None))
CANCELLING: Steps = (("Add", 30000.0), ("Add", -30000.0), ("Sigmoid", None))
HARMLESS: Steps = (("Mul", 0.3), ("Add", 0.1), ("Sigmoid", None))


def chain(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    """Return a graph from x to y (1, 3, 16, 16): a chain of operators, each with a constant or none."""
    nodes, weights, last = [], [], "x"
    for index, (operator, constant) in enumerate(steps):
        output = "y" if index == len(steps) - 1 else f"t{index}"
        inputs = [last] if constant is None else [last, f"c{index}"]
        if constant is not None:
            weights.append(numpy_helper.from_array(np.array([constant], np.float32), f"c{index}"))
        nodes.append(helper.make_node(operator, inputs, [output], f"{operator}_{index}"))
        last = output
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def fp16_chain(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    return to_fp16(chain(*steps), ["x", "y"])


def run(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(open_session(model).run(["y"], random_feeds(1)[0])[0], np.float32)


def feeder() -> InputFeeder:
    def prepare(frame: np.ndarray) -> np.ndarray:
        return np.asarray(frame.transpose(2, 0, 1)[None] / 255, np.float32)

    return InputFeeder(prepare, ("x",), "y")


def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("steps", [OVERFLOWING, CANCELLING, HARMLESS])
def test_emulated_operators_match_the_onnx_reference(steps: Steps) -> None:
    """Bit by bit, except for Sigmoid: the reference computes its steps in float16."""
    model = fp16_chain(*steps)
    with np.errstate(over="ignore"):
        (expected,) = ReferenceEvaluator(model).run(["y"], random_feeds(1)[0])
    np.testing.assert_allclose(run(model), np.asarray(expected), atol=5e-4)


def test_emulation_shows_rounding_that_onnx_runtime_hides() -> None:
    single, model = run(chain(*CANCELLING)), fp16_chain(*CANCELLING)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # ONNX Runtime alone shows nothing of the lost digits.
    np.testing.assert_allclose(np.asarray(session.run(["y"], random_feeds(1)[0])[0]), single, atol=1e-3)
    assert np.ptp(single) > 0.4
    assert np.ptp(run(model)) == 0
    assert np.isinf(run(fp16_chain(*OVERFLOWING))).mean() > 0.9


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
    assert {f"stem{UNROUNDED_SUFFIX}", "stem", "stem.float"} <= outputs
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


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (OVERFLOWING, r"node Mul_2 \(Mul\) reaches 4e\+06, and the maximum of float16 is 65504"),
        (CANCELLING, r"node Add_0 \(Add\) loses most"),
        (
            (("Mul", 1e-9), ("Reciprocal", None)),
            r"node Reciprocal_1 \(Reciprocal\) gives values that are not finite",
        ),
    ],
)
def test_weakest_node_is_named(steps: Steps, message: str) -> None:
    assert re.match(message, describe_weakest_node(fp16_chain(*steps), feeder(), windows()))


def test_float32_graph_has_no_weakest_node() -> None:
    assert describe_weakest_node(chain(*HARMLESS), feeder(), windows()) == "no node is in float16"


def test_overflow_is_found_from_float32_extremes() -> None:
    extremes = {"x": (0.0, 1.0), "t1": (0.0, 2e3), "t2": (-4e6, 0.0), "y": (0.0, 2e3)}
    sentence = describe_overflow(fp16_chain(*OVERFLOWING), extremes)
    assert sentence == "node Mul_2 (Mul) reaches 4e+06, and the maximum of float16 is 65504"
    assert describe_overflow(fp16_chain(*HARMLESS), {"t0": (0.0, 0.3), "y": (0.0, 1.0)}) is None
