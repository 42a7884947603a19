"""What carries Q/DQ, and that it computes the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.quantization.qdq import CPU, TENSORRT, QdqScheme, quantize, quantized_nodes
from calibration.ranges.activation_ranges import collect_ranges
from edge.core.errors import InputError
from edge.release.quantization import TensorRanges

SIDE = 16


def network() -> onnx.ModelProto:
    """Return conv 3-16, conv 16-32, pool, two convs joined, conv 32-16, deconv 16-8, deconv 8-1."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def convolve(x: str, y: str, inputs: int, outputs: int, transposed: bool = False) -> None:
        shape = (inputs, outputs, 4, 4) if transposed else (outputs, inputs, 3, 3)
        scale = 1 / np.sqrt(inputs * 9)
        weights.append(numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), f"{y}.w"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, outputs).astype(np.float32), f"{y}.b"))
        kind, stride = ("ConvTranspose", [2, 2]) if transposed else ("Conv", [1, 1])
        made = y if transposed else f"{y}.raw"
        nodes.append(
            helper.make_node(kind, [x, f"{y}.w", f"{y}.b"], [made], name=y, strides=stride, pads=[1, 1, 1, 1])
        )
        if not transposed:
            nodes.append(helper.make_node("Relu", [made], [y], name=f"{y}.relu"))

    convolve("x", "first", 3, 16)
    convolve("first", "second", 16, 32)
    nodes.append(
        helper.make_node("MaxPool", ["second"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    )
    convolve("pooled", "left", 32, 16)
    convolve("pooled", "right", 32, 16)
    nodes.append(helper.make_node("Concat", ["left", "right"], ["joined"], "join", axis=1))
    convolve("joined", "third", 32, 16)
    convolve("third", "up", 16, 16, transposed=True)
    convolve("up", "y", 16, 1, transposed=True)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            value("y", TensorProto.FLOAT, [1, 1, 2 * SIDE, 2 * SIDE]),
            value("pooled", TensorProto.FLOAT, [1, 32, 8, 8]),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


def feeds(count: int = 20) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto) -> TensorRanges:
    return collect_ranges(model, feeds(), "minmax")


def scale_of(model: onnx.ModelProto, tensor: str) -> float:
    (node,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.name == f"{tensor}_q"]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return float(constants[node.input[1]])


def test_tensorrt_gets_signed_symmetric_pairs_on_convolution_inputs(
    model: onnx.ModelProto, ranges: TensorRanges
) -> None:
    made = quantize(model, ranges, TENSORRT)
    # Not: three input channels (first), one output channel (y, the head).
    assert quantized_nodes(made) == ["second", "left", "right", "third", "up"]
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert zero == 0
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph.node) == 4
    for name in ("second", "third", "up"):
        (node,) = [n for n in made.graph.node if n.name == name]
        assert constants[node.input[2]].dtype == np.float32  # bias
        (weight,) = [n for n in made.graph.node if node.input[1] in n.output]
        axis = weight.attribute[0].i
        assert axis == (1 if name == "up" else 0)
        assert constants[weight.input[0]].dtype == np.int8
        assert constants[weight.input[1]].shape == (constants[weight.input[0]].shape[axis],)


def test_nothing_stands_between_a_convolution_and_its_relu(
    model: onnx.ModelProto, ranges: TensorRanges
) -> None:
    for scheme in (TENSORRT, CPU):
        made = quantize(model, ranges, scheme)
        for node in made.graph.node:
            if node.op_type == "Relu":
                (producer,) = [n for n in made.graph.node if node.input[0] in n.output]
                assert producer.op_type == "Conv"


def test_values_handed_through_share_a_scale(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    made = quantize(model, ranges, CPU)
    assert scale_of(made, "second") == scale_of(made, "pooled")
    assert scale_of(made, "left") != scale_of(made, "right")  # its Concat takes a scale for each
    wide = {**ranges, "left": (0.0, 9.0), "second": (0.0, 9.0)}
    made = quantize(model, wide, TENSORRT)
    assert scale_of(made, "joined") == scale_of(made, "pooled") == pytest.approx(9 / 127)


def test_the_cpu_gets_unsigned_integer_convolutions(
    model: onnx.ModelProto, ranges: TensorRanges, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    made = quantize(model, ranges, CPU)
    assert quantized_nodes(made) == ["second", "left", "right", "third"]
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["Relu"] == 0  # absorbed: its zero is the integers' zero, or fused into the float first


def test_a_graphs_output_keeps_its_name_and_its_neighbours_see_the_same(
    model: onnx.ModelProto, ranges: TensorRanges
) -> None:
    made = quantize(model, ranges, TENSORRT)
    assert [output.name for output in made.graph.output] == ["y", "pooled"]
    (producer,) = [n for n in made.graph.node if "pooled" in n.output]
    assert producer.op_type == "DequantizeLinear"


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_it_computes_nearly_the_same(model: onnx.ModelProto, scheme: QdqScheme, method) -> None:  # type: ignore[no-untyped-def]
    made = quantize(model, collect_ranges(model, feeds(40), method), scheme)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for m in (model, made)
    ]
    for feed in feeds(3):
        expected, got = (session.run(["y"], feed)[0] for session in sessions)
        assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


def test_ranges_hold_every_value(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    low, high = ranges["first"]
    assert low >= 0  # after a ReLU
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pooled = np.stack([session.run(["pooled"], feed)[0] for feed in feeds()])
    assert ranges["pooled"][1] == pytest.approx(pooled.max(), rel=1e-5)
    assert high > 0


def test_bad_calls_are_named(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    with pytest.raises(InputError, match="no calibration frames"):
        collect_ranges(model, [], "minmax")
    with pytest.raises(InputError, match="unknown calibration method 'guess'"):
        collect_ranges(model, feeds(1), "guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no range for tensor 'joined'"):
        quantize(model, {k: v for k, v in ranges.items() if k != "joined"}, TENSORRT)
    with pytest.raises(InputError, match="is not finite"):
        collect_ranges(model, [{"x": np.full((1, 3, SIDE, SIDE), np.nan, np.float32)}], "minmax")
