"""Rewriting of a graph into the form that the rest of the calibration expects: what it computes stays."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

MIN_IR_VERSION = 8
"""Before IR 4, each weight had to be an input as well."""


def repair_graph(model: onnx.ModelProto) -> None:
    """Change a graph, in place, so that weights are constants, all floats are float32, and no name is empty.

    - A weight that is listed as an input is one no more. A caller could replace it, so nothing folds it.
    - Values in float16 become float32. `export.graphs.fp16` makes float16 graphs from float32 ones.
    - An optional input that is left out at the end of a node's list is not written as an empty name.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    for node in model.graph.node:
        while len(node.input) and not node.input[-1]:
            node.input.pop()
    widen_float16(model.graph)


def widen_float16(graph: onnx.GraphProto) -> None:
    """Let all float16 values of a graph be float32, in place."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
