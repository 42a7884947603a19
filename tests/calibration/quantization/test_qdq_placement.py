"""Where Q/DQ goes at residual sums, heads, grouped convolutions; and layer by layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.graph_inputs import open_session
from calibration.quantization.qdq import quantize, quantized_nodes
from calibration.quantization.qdq_placement import CPU, TENSORRT, QdqScheme, quantizable_layers
from calibration.ranges.activation_ranges import collect_ranges

SCHEMES = pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=["tensorrt", "cpu"])


def residual() -> onnx.ModelProto:
    """Return stem 3-16; block a, b and x + b; block with a projected shortcut; depthwise; head 16-16."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def convolve(x: str, y: str, inputs: int, outputs: int, side: int = 3, group: int = 1) -> None:
        shape = (outputs, inputs // group, side, side)
        scale = 1 / np.sqrt(inputs // group * side * side)
        weights.append(numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), f"{y}.w"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, outputs).astype(np.float32), f"{y}.b"))
        pads = [side // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"{y}.w", f"{y}.b"], [y], y, pads=pads, group=group))

    def one(kind: str, inputs: list[str], output: str) -> None:
        nodes.append(helper.make_node(kind, inputs, [output], output))

    convolve("x", "stem", 3, 16)
    one("Relu", ["stem"], "x1")
    convolve("x1", "a", 16, 16)
    one("Relu", ["a"], "a1")
    convolve("a1", "b", 16, 16)
    one("Add", ["x1", "b"], "sum1")
    one("Relu", ["sum1"], "x2")
    convolve("x2", "shortcut", 16, 32, side=1)
    convolve("x2", "c", 16, 32)
    one("Relu", ["c"], "c1")
    convolve("c1", "d", 32, 32)
    one("Add", ["d", "shortcut"], "sum2")
    one("Relu", ["sum2"], "x3")
    convolve("x3", "depthwise", 32, 32, group=32)
    one("Relu", ["depthwise"], "x4")
    convolve("x4", "y", 32, 16)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "residual",
        [value("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [value("y", TensorProto.FLOAT, [1, 16, 16, 16])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def source(model: onnx.ModelProto, node: str) -> list[str]:
    """Return the kinds of node that make a node's inputs."""
    made = {output: n.op_type for n in model.graph.node for output in n.output}
    (found,) = [n for n in model.graph.node if n.name == node]
    return [made.get(name, "-") for name in found.input]


def test_the_head_and_thin_layers_are_left_alone() -> None:
    for scheme in (TENSORRT, CPU):
        assert quantizable_layers(residual(), scheme) == ["a", "b", "shortcut", "c", "d", "depthwise"]


def test_at_a_residual_sum_tensorrt_gets_the_other_branch_quantised() -> None:
    model = residual()
    made = quantize(model, collect_ranges(model, feeds(), "minmax"), TENSORRT)
    assert source(made, "sum1") == ["DequantizeLinear", "Conv"]  # b fuses with the sum
    # Both sides are convolutions: the sum fuses into the later one, and the shortcut is quantised.
    assert source(made, "sum2") == ["Conv", "DequantizeLinear"]
    quantised = {node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised == {"x1", "a1", "x2", "shortcut", "c1", "x3"}


def test_the_cpu_sums_integers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = residual()
    made = quantize(model, collect_ranges(model, feeds(), "minmax"), CPU)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert kinds.count("QLinearConv") == 6
    assert kinds.count("QLinearAdd") == 2
    assert "Add" not in kinds


@SCHEMES
@pytest.mark.parametrize("only", [["b"], ["a", "shortcut"], ["d", "depthwise"], []])
def test_any_choice_of_layers_computes_nearly_the_same(scheme: QdqScheme, only: list[str]) -> None:
    model = residual()
    made = quantize(model, collect_ranges(model, feeds(), "minmax"), scheme, only)
    assert quantized_nodes(made) == [name for name in quantizable_layers(model, scheme) if name in only]
    for feed in feeds(2):
        expected, got = (open_session(m).run(None, feed)[0] for m in (model, made))
        assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > (0.99 if only else 0.9999999)
