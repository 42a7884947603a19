"""Multiply-accumulates and bytes of layers, against hand calculations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.core.errors import InputError
from edge.inference.onnxruntime.tensor_types import infer_tensor_types
from edge.release.graph_work import Work, count_macs, count_work, find_layers
from edge.release.manifest import load_release
from edge.release.onnx_graph import OnnxGraph, OnnxNode, Shape, TensorType, read_onnx_graph

IMAGE, FEATURES = (1, 4, 8, 8), (1, 6, 8, 8)


def node(op: str, inputs: str, output: str) -> OnnxNode:
    return OnnxNode(f"node_{output}", op, tuple(inputs.split()), (output,))


def graph(nodes: Sequence[OnnxNode], weights: dict[str, TensorType]) -> OnnxGraph:
    return OnnxGraph(list(nodes), weights, ["x"], [nodes[-1].outputs[0]])


def floats(**shapes: Shape) -> dict[str, TensorType]:
    return {name: TensorType("float", shape) for name, shape in shapes.items()}


def graph_work(path: Path) -> Work:
    onnx_graph = read_onnx_graph(path)
    types = infer_tensor_types(path, onnx_graph, {})
    return sum(count_work(onnx_graph, types, find_layers(onnx_graph)).values(), Work())


@pytest.mark.parametrize(
    ("op", "inputs", "output", "expected"),
    [
        ("Conv", [(2, 4, 5, 7), (6, 2, 3, 3)], (2, 6, 5, 7), 2 * 6 * 35 * 2 * 9),  # two groups
        ("Conv", [(1, 8, 6, 6), (8, 1, 3, 3)], (1, 8, 3, 3), 8 * 9 * 9),  # depthwise, stride 2
        ("Conv", [(1, 3, 4, 5, 7), (5, 3, 2, 1, 1)], (1, 5, 3, 5, 7), 5 * 3 * 35 * 3 * 2),  # a clip
        ("ConvTranspose", [(1, 4, 5, 7), (4, 6, 4, 4)], (1, 6, 10, 14), 4 * 35 * 6 * 16),
        ("ConvTranspose", [(1, 3, 4, 5, 7), (3, 5, 2, 2, 2)], (1, 5, 8, 10, 14), 3 * 140 * 5 * 8),
        ("QLinearConv", [(1, 4, 5, 7), (), (), (6, 4, 3, 3)], (1, 6, 5, 7), 6 * 35 * 4 * 9),
        ("ConvInteger", [(1, 4, 5, 7), (6, 4, 3, 3)], (1, 6, 5, 7), 6 * 35 * 4 * 9),
        ("MatMul", [(2, 3, 7), (7, 9)], (2, 3, 9), 6 * 7 * 9),
        ("MatMul", [(2, 3, 7), (7,)], (2, 3), 6 * 7),
        ("Gemm", [(3, 7), (9, 7)], (3, 9), 3 * 7 * 9),  # B transposed
        ("Gemm", [(7, 3), (7, 9)], (3, 9), 3 * 7 * 9),  # A transposed
        ("GRU", [(5, 2, 8), (1, 12, 8), (1, 12, 4)], (5, 1, 2, 4), 5 * 2 * (12 * 8 + 12 * 4)),
        ("MaxPool", [(1, 4, 8, 8)], (1, 4, 4, 4), 0),
        ("Resize", [(1, 4, 8, 8)], (1, 4, 16, 16), 0),
    ],
)
def test_multiply_accumulates_match_values_by_hand(
    op: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], expected: int
) -> None:
    assert count_macs(op, inputs, output) == expected


def test_float_layer_reads_and_writes_its_tensors_once() -> None:
    nodes = [
        node("Conv", "x w b", "conv"),
        node("Relu", "conv", "relu"),
        node("MaxPool", "relu", "pool"),
        node("Resize", "pool roi scales", "y"),
    ]
    onnx_graph = graph(nodes, floats(w=(6, 4, 3, 3), b=(6,), roi=(0,), scales=(4,)))
    types = floats(x=IMAGE, conv=FEATURES, relu=FEATURES, pool=(1, 6, 4, 4), y=FEATURES)
    works = count_work(onnx_graph, types, find_layers(onnx_graph))
    assert works == {
        "node_conv": Work(6 * 64 * 4 * 9, 4 * (6 * 36 + 6), 4 * 4 * 64, 4 * 6 * 64),
        "node_pool": Work(0, 0, 4 * 6 * 64, 4 * 6 * 16),
        "node_y": Work(0, 16, 4 * 6 * 16, 4 * 6 * 64),
    }


def quantized_graph() -> tuple[OnnxGraph, dict[str, TensorType]]:
    """Return x -> Q -> DQ -> Conv -> Relu -> Q -> DQ -> Exp, the weights in int8."""
    nodes = [
        node("QuantizeLinear", "x s z", "x_q"),
        node("DequantizeLinear", "x_q s z", "x_dq"),
        node("DequantizeLinear", "w s", "w_dq"),
        node("DequantizeLinear", "b s", "b_dq"),
        node("Conv", "x_dq w_dq b_dq", "conv"),
        node("Relu", "conv", "relu"),
        node("QuantizeLinear", "relu s z", "relu_q"),
        node("DequantizeLinear", "relu_q s z", "relu_dq"),
        node("Exp", "relu_dq", "y"),
    ]
    weights = {"s": TensorType("float", ()), "z": TensorType("uint8", ())}
    weights |= {"w": TensorType("int8", (6, 4, 3, 3)), "b": TensorType("int32", (6,))}
    types = floats(w_dq=(6, 4, 3, 3), b_dq=(6,), x=IMAGE, x_dq=IMAGE)
    types |= floats(conv=FEATURES, relu=FEATURES, relu_dq=FEATURES, y=FEATURES)
    types |= {"x_q": TensorType("uint8", IMAGE), "relu_q": TensorType("uint8", FEATURES)}
    return graph(nodes, weights), types


CONV_WEIGHTS = 6 * 36 + 6 * 4 + 4 + 1
"""int8 weights, int32 bias, and the scale and zero point that all nodes of the graph share."""


def test_integer_layer_moves_a_byte_per_value() -> None:
    onnx_graph, types = quantized_graph()
    assert count_work(onnx_graph, types, find_layers(onnx_graph)) == {
        "node_x_q": Work(0, 5, 4 * 256, 256),
        "node_conv": Work(6 * 64 * 36, CONV_WEIGHTS, 256, 6 * 64),
        "node_relu_dq": Work(0, 5, 6 * 64, 4 * 6 * 64),
        "node_y": Work(0, 0, 4 * 6 * 64, 4 * 6 * 64),
    }


def test_engine_that_computes_the_convolution_in_float_moves_floats() -> None:
    onnx_graph, types = quantized_graph()
    names = ("x_q", "x_dq", "conv", "relu_q", "relu_dq", "y")
    works = count_work(onnx_graph, types, {name: [f"node_{name}"] for name in names})
    assert works["conv"] == Work(6 * 64 * 36, CONV_WEIGHTS - 1, 4 * 256, 4 * 6 * 64)
    assert works["relu_q"] == Work(0, 5, 4 * 6 * 64, 6 * 64)


def test_node_that_no_layer_names_belongs_to_a_neighbour() -> None:
    nodes = [
        node("Conv", "x w", "conv"),
        node("Add", "x conv", "sum"),
        node("Reshape", "sum shape", "flat"),
        node("Exp", "flat", "y"),
    ]
    onnx_graph = graph(nodes, floats(w=(4, 4, 1, 1)) | {"shape": TensorType("int64", (2,))})
    types = floats(x=IMAGE, conv=IMAGE, sum=IMAGE, flat=(1, 256), y=(1, 256))
    works = count_work(onnx_graph, types, {"FusedConv": ["node_conv"], "Exp": ["node_y"], "Reorder": []})
    assert works["FusedConv"] == Work(16 * 64, 64 + 16, 1024, 1024)
    assert works["Exp"] == Work(0, 0, 1024, 1024)
    assert works["Reorder"] == Work()


def test_convolution_that_no_layer_names_is_counted_once() -> None:
    nodes = [node("Conv", "x w", "conv"), node("Exp", "conv", "a"), node("Abs", "conv", "y")]
    onnx_graph = graph(nodes, floats(w=(4, 4, 1, 1)))
    types = floats(x=IMAGE, conv=IMAGE, a=IMAGE, y=IMAGE)
    works = count_work(onnx_graph, types, {"first": ["node_a"], "second": ["node_y"]})
    assert [work.macs for work in works.values()] == [16 * 64, 0]
    assert works["second"].read_bytes == 1024


def test_tensor_without_a_shape_is_named() -> None:
    onnx_graph = graph([node("If", "x", "y")], {})
    with pytest.raises(InputError, match="the shape of y is unknown"):
        count_work(onnx_graph, {"x": TensorType("bool", ())}, {})


def test_recurrent_layer_without_its_first_output_is_counted() -> None:
    gru = OnnxNode("gru", "GRU", ("x", "w", "r", ""), ("", "state"))
    weights = floats(w=(1, 12, 8), r=(1, 12, 4))
    types = floats(x=(5, 1, 8), state=(1, 1, 4))
    recurrent = OnnxGraph([gru], weights, ["x"], ["state"])
    work = count_work(recurrent, types, find_layers(recurrent))["gru"]
    assert work == Work(5 * (12 * 8 + 12 * 4), 4 * (12 * 8 + 12 * 4), 4 * 5 * 8, 4 * 4)


def test_views_move_nothing_and_selections_read_what_they_write() -> None:
    nodes = [node("Reshape", "x shape", "flat"), node("Slice", "flat start end", "y")]
    weights = {name: TensorType("int64", (2,)) for name in ("shape", "start", "end")}
    types = floats(x=IMAGE, flat=(4, 64), y=(1, 64))
    onnx_graph = graph(nodes, weights)
    works = count_work(onnx_graph, types, find_layers(onnx_graph))
    assert works == {"node_flat": Work(), "node_y": Work(0, 32, 256, 256)}


# Multiply-accumulates of a call, computed from the layers of the students. Streaming keeps the features of
# the frame before, so a frame costs half of a pair's trunk.
SHIPPED_MACS = {"skd-32": 23_838_720, "skd-64": 4 * 23_838_720, "skd-128": 16 * 23_838_720}


@pytest.mark.parametrize(("name", "macs"), SHIPPED_MACS.items())
def test_precisions_of_a_student_have_the_same_arithmetic_and_fewer_bytes(name: str, macs: int) -> None:
    release = load_release(name)
    fp32, fp16, *int8 = (
        graph_work(release.folder / f"stream.{suffix}.onnx")
        for suffix in ("fp32", "fp16", "int8.onnxruntime", "int8.tensorrt")
    )
    assert {work.macs for work in (fp32, fp16, *int8)} == {macs}
    # The log density at the end of the fp16 graph is computed in float32.
    assert fp16.weight_bytes == pytest.approx(fp32.weight_bytes / 2, rel=1e-3)
    assert fp16.moved_bytes < 0.6 * fp32.moved_bytes
    assert all(work.weight_bytes < 0.3 * fp32.weight_bytes for work in int8)
