"""Graphs that are written in unusual ways compute the same after the repair."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from calibration.inputs.graph_inputs import open_session
from calibration.inputs.graph_repair import repair_graph
from tests.support.foreign_networks import HEIGHT, WIDTH, half_network


def test_float16_weights_as_inputs_and_empty_names_become_plain() -> None:
    model = half_network()
    frame = np.random.default_rng(0).random((1, 1, HEIGHT, WIDTH), np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"gray": frame.astype(np.float16)})
    repair_graph(model)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["gray"]
    assert all(name for node in model.graph.node for name in node.input)
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT}
    (actual,) = open_session(model).run(None, {"gray": frame})
    assert actual.dtype == np.float32
    assert np.abs(actual - expected.astype(np.float32)).max() < 0.01
