"""float16 on the CPU: rounded for true, and the node that does not bear it named."""

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
from tests.calibration.quantization.test_qdq_placement import feeds, residual

LOUD = (("Abs", None), ("Mul", 2000.0), ("Mul", 2000.0), ("Sqrt", None))
FAINT = (("Add", 30000.0), ("Add", -30000.0), ("Sigmoid", None))
GENTLE = (("Mul", 0.3), ("Add", 0.1), ("Sigmoid", None))


def chain(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    """Return a graph from x to y (1, 3, 16, 16), an operator after another, each with a constant or none."""
    nodes, weights, last = [], [], "x"
    for index, (kind, constant) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"t{index}"
        inputs = [last] if constant is None else [last, f"c{index}"]
        if constant is not None:
            weights.append(numpy_helper.from_array(np.array([constant], np.float32), f"c{index}"))
        nodes.append(helper.make_node(kind, inputs, [made], f"{kind}_{index}"))
        last = made
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def half(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    return to_fp16(chain(*steps), ["x", "y"])


def run(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(open_session(model).run(["y"], feeds(1)[0])[0], np.float32)


def feeder() -> InputFeeder:
    def prepare(frame: np.ndarray) -> np.ndarray:
        return np.asarray(frame.transpose(2, 0, 1)[None] / 255, np.float32)

    return InputFeeder(prepare, ("x",), "y")


def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("steps", [LOUD, FAINT, GENTLE])
def test_operators_give_what_float16_gives(steps: tuple[tuple[str, float | None], ...]) -> None:
    """Bit by bit as the reference does, but for Sigmoid, which that computes by steps in float16."""
    model = half(*steps)
    with np.errstate(over="ignore"):
        (expected,) = ReferenceEvaluator(model).run(["y"], feeds(1)[0])
    np.testing.assert_allclose(run(model), np.asarray(expected), atol=5e-4)


def test_rounding_shows_where_onnx_runtime_alone_hides_it() -> None:
    single, model = run(chain(*FAINT)), half(*FAINT)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        np.asarray(session.run(["y"], feeds(1)[0])[0]), single, atol=1e-3
    )  # not even a doubt
    assert np.ptp(single) > 0.4
    assert np.ptp(run(model)) == 0
    assert np.isinf(run(half(*LOUD))).mean() > 0.9


def test_onnx_runtime_keeps_every_rounding() -> None:
    """Optimised and as they are written, a graph's operators give the same bits."""
    model = emulate_fp16(to_fp16(residual(), ["x", "y"]))
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    told = [name for node in model.graph.node for name in node.output if name.endswith(".float")]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in told)
    session = ort.InferenceSession(model.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    for values in session.run(told, feeds(1)[0]):
        np.testing.assert_array_equal(values, values.astype(np.float16).astype(np.float32))
    written = session.run(["y"], feeds(1)[0])[0]
    np.testing.assert_allclose(run(to_fp16(residual(), ["x", "y"])), written, atol=2e-3)


def test_names_and_types_stay_and_float32_is_left_alone() -> None:
    model = to_fp16(residual(), [])
    made = emulate_fp16(model)
    assert made.graph.input == model.graph.input
    assert made.graph.output == model.graph.output
    assert {f"stem{UNROUNDED_SUFFIX}", "stem", "stem.float"} <= {
        o for node in made.graph.node for o in node.output
    }
    onnx.checker.check_model(made, full_check=True)
    assert emulate_fp16(residual()) == residual()


def test_quantised_graphs_are_rounded_between() -> None:
    model = residual()
    made = to_fp16(quantize(model, collect_ranges(model, feeds(), "minmax"), TENSORRT), ["x", "y"])
    onnx.checker.check_model(emulate_fp16(made), full_check=True)
    session = open_session(made, disable_qdq_fusion=True, outputs=["stem", "sum1"])
    for values in session.run(["stem", "sum1"], feeds(1)[0]):
        assert values.dtype == np.float16


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (LOUD, r"node Mul_2 \(Mul\) reaches 4e\+06, and float16 ends at 65504"),
        (FAINT, r"node Add_0 \(Add\) loses most"),
        ((("Mul", 1e-9), ("Reciprocal", None)), r"node Reciprocal_1 \(Reciprocal\) gives no numbers"),
    ],
)
def test_the_node_is_named(steps: tuple[tuple[str, float | None], ...], told: str) -> None:
    assert re.match(told, describe_weakest_node(half(*steps), feeder(), windows()))


def test_a_graph_in_float32_has_no_weakest_node() -> None:
    assert describe_weakest_node(chain(*GENTLE), feeder(), windows()) == "no node is in float16"


def test_extremes_tell_of_overflow() -> None:
    reached = {"x": (0.0, 1.0), "t1": (0.0, 2e3), "t2": (-4e6, 0.0), "y": (0.0, 2e3)}
    found = describe_overflow(half(*LOUD), reached)
    assert found == "node Mul_2 (Mul) reaches 4e+06, and float16 ends at 65504"
    assert describe_overflow(half(*GENTLE), {"t0": (0.0, 0.3), "y": (0.0, 1.0)}) is None
