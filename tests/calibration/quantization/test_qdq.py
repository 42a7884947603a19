"""Tests of quantized graphs: where Q/DQ nodes are, and that the graph computes nearly the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.graph_inputs import open_session
from calibration.quantization.qdq import quantize, quantized_nodes
from calibration.quantization.qdq_placement import CPU, TENSORRT, QdqScheme
from calibration.ranges.activation_ranges import collect_ranges
from calibration.ranges.histogram import Method
from edge.core.errors import InputError
from edge.release.quantization import TensorRanges
from tests.support.onnx_graphs import SIDE, encoder_decoder_network, random_feeds, softmax_network


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return encoder_decoder_network()


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto) -> TensorRanges:
    return collect_ranges(model, random_feeds(20), "minmax")


def scale_of(model: onnx.ModelProto, tensor: str) -> float:
    (node,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.name == f"{tensor}_q"]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return float(constants[node.input[1]])


def test_tensorrt_scheme_uses_signed_symmetric_qdq_on_convolution_inputs(
    model: onnx.ModelProto, ranges: TensorRanges
) -> None:
    quantized = quantize(model, ranges, TENSORRT)
    # Excluded: first (three input channels) and y (one output channel, the head).
    assert quantized_nodes(quantized) == ["second", "left", "right", "third", "up"]
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert zero == 0
    assert sum(n.op_type == "QuantizeLinear" for n in quantized.graph.node) == 4
    for name in ("second", "third", "up"):
        (node,) = [n for n in quantized.graph.node if n.name == name]
        assert constants[node.input[2]].dtype == np.float32  # bias
        (weight,) = [n for n in quantized.graph.node if node.input[1] in n.output]
        axis = weight.attribute[0].i
        assert axis == (1 if name == "up" else 0)
        assert constants[weight.input[0]].dtype == np.int8
        assert constants[weight.input[1]].shape == (constants[weight.input[0]].shape[axis],)


def test_no_qdq_is_between_a_convolution_and_its_relu(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    for scheme in (TENSORRT, CPU):
        quantized = quantize(model, ranges, scheme)
        for node in quantized.graph.node:
            if node.op_type == "Relu":
                (producer,) = [n for n in quantized.graph.node if node.input[0] in n.output]
                assert producer.op_type == "Conv"


def test_pass_through_operators_share_a_scale(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    quantized = quantize(model, ranges, CPU)
    assert scale_of(quantized, "second") == scale_of(quantized, "pooled")
    assert scale_of(quantized, "left") != scale_of(quantized, "right")  # its Concat takes a scale per input
    wide = {**ranges, "left": (0.0, 9.0), "second": (0.0, 9.0)}
    quantized = quantize(model, wide, TENSORRT)
    assert scale_of(quantized, "joined") == scale_of(quantized, "pooled") == pytest.approx(9 / 127)


def test_cpu_scheme_gives_unsigned_integer_convolutions(
    model: onnx.ModelProto, ranges: TensorRanges, tmp_path: Path
) -> None:
    quantized = quantize(model, ranges, CPU)
    assert quantized_nodes(quantized) == ["second", "left", "right", "third"]
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 4
    assert kinds["Relu"] == 0  # absorbed into the zero point, or fused into the float convolution


def test_quantized_graph_output_keeps_its_name(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    quantized = quantize(model, ranges, TENSORRT)
    assert [output.name for output in quantized.graph.output] == ["y", "pooled"]
    (producer,) = [n for n in quantized.graph.node if "pooled" in n.output]
    assert producer.op_type == "DequantizeLinear"


@pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=["tensorrt", "cpu"])
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_quantized_graph_computes_nearly_the_same(
    model: onnx.ModelProto, scheme: QdqScheme, method: Method
) -> None:
    quantized = quantize(model, collect_ranges(model, random_feeds(40), method), scheme)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for m in (model, quantized)
    ]
    for feed in random_feeds(3):
        expected, got = (session.run(["y"], feed)[0] for session in sessions)
        assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "model",
    [
        softmax_network(),
        softmax_network("Identity"),
        softmax_network("Cast", to=TensorProto.FLOAT),
        softmax_network("Relu"),
        softmax_network("Transpose", perm=[0, 1, 3, 2]),
        softmax_network("Reshape", [[1, 16, SIDE, SIDE]]),
        softmax_network("Expand", [[1, 16, SIDE, SIDE]]),
        softmax_network("Slice", [[0], [SIDE], [2]]),
        softmax_network("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ],
    ids=lambda model: model.graph.node[3].op_type,
)
def test_softmax_beyond_its_calibrated_range_keeps_the_map(model: onnx.ModelProto, tmp_path: Path) -> None:
    ranges = collect_ranges(model, random_feeds(20), "minmax")
    assert ranges["shares"][1] > 0.9
    # As if no calibration frame had a clear winner. ONNX Runtime's kernel wraps around from 1/16 on.
    narrow = {**ranges, **dict.fromkeys({"shares", "after"} & ranges.keys(), (0.0, 1 / 32))}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    quantized = quantize(model, narrow, CPU).SerializeToString()
    session = ort.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])
    assert "QLinearSoftmax" in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    exact = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in random_feeds(3):
        expected, got = exact.run(["y"], feed)[0], session.run(["y"], feed)[0]
        assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("node", "kernel"),
    [
        (helper.make_node("Add", ["a_dq", "b_dq"], ["y"]), "QLinearAdd"),
        (helper.make_node("Mul", ["a_dq", "b_dq"], ["y"]), "QLinearMul"),
        (helper.make_node("MatMul", ["a_dq", "b_dq"], ["y"]), "QLinearMatMul"),
        (helper.make_node("Concat", ["a_dq", "b_dq"], ["y"], axis=1), "QLinearConcat"),
        (helper.make_node("Sigmoid", ["a_dq"], ["y"]), "QLinearSigmoid"),
        (helper.make_node("LeakyRelu", ["a_dq"], ["y"], alpha=0.3), "QLinearLeakyRelu"),
        (helper.make_node("AveragePool", ["a_dq"], ["y"], kernel_shape=[2, 2]), "QLinearAveragePool"),
        (helper.make_node("GlobalAveragePool", ["a_dq"], ["y"]), "QLinearGlobalAveragePool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_integer_kernels_other_than_softmax_clip_values_beyond_the_range(
    node: onnx.NodeProto, kernel: str, tmp_path: Path
) -> None:
    """One that wraps around would belong to `wrapping_operators`."""
    graph = helper.make_graph([], "g", [], [], [])
    for name, scale in (("a", 1 / 16), ("b", 1 / 16), ("y", 1 / 4096)):  # y: from -1/32 to 1/32
        graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{name}_scale"))
        graph.initializer.append(numpy_helper.from_array(np.uint8(128), f"{name}_zero"))
        if name == "y":
            graph.node.append(node)
            graph.output.append(helper.make_tensor_value_info("y_dq", TensorProto.FLOAT, None))
        else:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, SIDE, SIDE]))
        parameters = [f"{name}_scale", f"{name}_zero"]
        graph.node.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"]))
        graph.node.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    integer = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert kernel in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    random = np.random.default_rng(0)
    feed = {name: random.uniform(-4, 4, (1, 4, SIDE, SIDE)).astype(np.float32) for name in "ab"}
    (expected,) = open_session(model, disable_qdq_fusion=True).run(["y_dq"], feed)
    (got,) = integer.run(["y_dq"], feed)
    assert expected.max() == 127 / 4096  # some values are beyond the range
    assert np.abs(got - expected).max() < 1.5 / 4096


def test_invented_names_are_none_of_a_stored_shape(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    stale = onnx.ModelProto()
    stale.CopyFrom(model)
    for name in ("first_q", "first_dq", "first_scale"):  # of nodes that a simplification has removed
        stale.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [7]))
    quantized = quantize(stale, ranges, TENSORRT)
    assert "first_dq1" in {output for node in quantized.graph.node for output in node.output}


def test_minmax_ranges_cover_every_value(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    low, high = ranges["first"]
    assert low >= 0  # after a ReLU
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pooled = np.stack([session.run(["pooled"], feed)[0] for feed in random_feeds(20)])
    assert ranges["pooled"][1] == pytest.approx(pooled.max(), rel=1e-5)
    assert high > 0


def test_invalid_calibration_input_is_reported(model: onnx.ModelProto, ranges: TensorRanges) -> None:
    with pytest.raises(InputError, match="no calibration frames"):
        collect_ranges(model, [], "minmax")
    with pytest.raises(InputError, match="unknown calibration method 'guess'"):
        collect_ranges(model, random_feeds(1), "guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no range for tensor 'joined'"):
        quantize(model, {k: v for k, v in ranges.items() if k != "joined"}, TENSORRT)
    with pytest.raises(InputError, match="is not finite"):
        collect_ranges(model, [{"x": np.full((1, 3, SIDE, SIDE), np.nan, np.float32)}], "minmax")
