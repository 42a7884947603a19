"""float16 graphs: constants that stay float32, and the end of a graph that makes the map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from calibration.inputs.graph_inputs import open_session
from calibration.inputs.onnx_import import convert_opset, simplify
from export.graphs.fp16 import to_fp16
from tests.support.foreign_networks import HEIGHT, WIDTH, log_density_network, upsampling_network


def _standard(model: onnx.ModelProto) -> onnx.ModelProto:
    return simplify(Path("model.onnx"), convert_opset(Path("model.onnx"), model))


def test_resizes_that_share_their_scales_are_converted() -> None:
    """What was a Constant node is listed among the typed values of a graph."""
    model = upsampling_network()
    scales = next(tensor for tensor in model.graph.initializer if tensor.name == "scales")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["scales"], value=scales))
    model.graph.initializer.remove(scales)
    model = _standard(model)
    assert "scales" in {value.name for value in model.graph.value_info}
    fp16 = to_fp16(model, ["image", "saliency"])
    frame = np.random.default_rng(0).random((1, 3, HEIGHT, WIDTH), np.float32)
    maps = [open_session(graph).run(["saliency"], {"image": frame})[0] for graph in (model, fp16)]
    assert np.abs(maps[0] - maps[1]).max() < 0.01
    (kept,) = (tensor for tensor in fp16.graph.initializer if tensor.name == "scales")
    assert kept.data_type == TensorProto.FLOAT


def test_softmax_over_the_pixels_stays_in_float32() -> None:
    model = _standard(log_density_network())
    fp16 = to_fp16(model, ["rgb", "log_density", "features"])
    frame = np.random.default_rng(0).random((1, 3, HEIGHT, WIDTH), np.float32)
    (actual,) = open_session(fp16).run(["log_density"], {"rgb": frame})
    assert not np.array_equal(actual, actual.astype(np.float16))
