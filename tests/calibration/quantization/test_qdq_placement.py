"""Tests of the placement of Q/DQ nodes: residual sums, heads, grouped convolutions, chosen layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from calibration.inputs.graph_inputs import open_session
from calibration.quantization.qdq import quantize, quantized_nodes
from calibration.quantization.qdq_placement import CPU, TENSORRT, QdqScheme, quantizable_layers
from calibration.ranges.activation_ranges import collect_ranges
from tests.support.onnx_graphs import random_feeds, residual_network

SCHEMES = pytest.mark.parametrize("scheme", [TENSORRT, CPU], ids=["tensorrt", "cpu"])


def input_operators(model: onnx.ModelProto, node_name: str) -> list[str]:
    """Return the operators that produce a node's inputs."""
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    (node,) = [node for node in model.graph.node if node.name == node_name]
    return [producers.get(name, "-") for name in node.input]


def test_head_and_layers_with_few_channels_stay_in_float() -> None:
    for scheme in (TENSORRT, CPU):
        assert quantizable_layers(residual_network(), scheme) == ["a", "b", "shortcut", "c", "d", "depthwise"]


def test_tensorrt_scheme_quantizes_the_other_branch_of_a_residual_sum() -> None:
    model = residual_network()
    quantized = quantize(model, collect_ranges(model, random_feeds(), "minmax"), TENSORRT)
    assert input_operators(quantized, "sum1") == ["DequantizeLinear", "Conv"]  # b fuses with the sum
    # Both inputs are convolutions: the sum fuses into the later one, and the shortcut is quantized.
    assert input_operators(quantized, "sum2") == ["Conv", "DequantizeLinear"]
    quantised = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised == {"x1", "a1", "x2", "shortcut", "c1", "x3"}


def test_cpu_scheme_computes_residual_sums_in_integers(tmp_path: Path) -> None:
    model = residual_network()
    quantized = quantize(model, collect_ranges(model, random_feeds(), "minmax"), CPU)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert kinds.count("QLinearConv") == 6
    assert kinds.count("QLinearAdd") == 2
    assert "Add" not in kinds


@SCHEMES
@pytest.mark.parametrize("only", [["b"], ["a", "shortcut"], ["d", "depthwise"], []])
def test_any_chosen_layers_compute_nearly_the_same(scheme: QdqScheme, only: list[str]) -> None:
    model = residual_network()
    quantized = quantize(model, collect_ranges(model, random_feeds(), "minmax"), scheme, only)
    assert quantized_nodes(quantized) == [name for name in quantizable_layers(model, scheme) if name in only]
    for feed in random_feeds(2):
        expected, got = (open_session(m).run(None, feed)[0] for m in (model, quantized))
        assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > (0.99 if only else 0.9999999)
