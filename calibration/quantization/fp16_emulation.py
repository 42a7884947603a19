"""Emulation of float16 on a CPU.

ONNX Runtime has no float16 operators on most CPUs. It computes them in float32 and drops the roundings
between them, which hides overflow and lost digits. This module rounds every float16 tensor by a pair of
casts that belong to the graph; ONNX Runtime keeps those. Sums inside an operator stay in float32, as they
mostly do in TensorRT.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.quantization.free_names import FreeNames

FP16_MAX = float(np.finfo(np.float16).max)
"""Largest finite number in float16, 65504."""


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float32 and rounds the output of each float16 operator to float16.

    Tensors keep their names and types. For each rounded tensor there are also two more, its float32 values
    before rounding (see `unrounded_names`) and after. A graph without float16 is returned unchanged.
    """
    if not _has_fp16(model):
        return model
    halves = fp16_tensors(model)
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        _widen(tensor)
    exact = unrounded_names(model)
    free_name = FreeNames(graph)
    wide = {name: free_name(f"{name}.float") for name in halves - constants}

    def cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
        name = free_name(f"{target} from {source}")
        return helper.make_node("Cast", [source], [target], name, to=dtype)

    nodes = [
        cast(value.name, wide[value.name], TensorProto.FLOAT) for value in graph.input if value.name in wide
    ]
    for node in graph.node:
        for attribute in node.attribute:
            _widen(attribute.t)
            if _is_fp16_type(attribute):
                attribute.i = TensorProto.FLOAT
        rounded_outputs = [name for name in node.output if name in wide]
        node.input[:] = [wide.get(name, name) for name in node.input]
        node.output[:] = [exact[name] if name in wide else name for name in node.output]
        nodes.append(node)
        for name in rounded_outputs:
            nodes.append(cast(exact[name], name, TensorProto.FLOAT16))
            nodes.append(cast(name, wide[name], TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return emulated


def unrounded_names(model: onnx.ModelProto) -> dict[str, str]:
    """Return the names that `emulate_fp16` gives to the outputs of operators before they are rounded."""
    free_name = FreeNames(model.graph)
    return {name: free_name(f"{name}.exact") for node in model.graph.node for name in node.output if name}


def fp16_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float16 tensors of a graph, constants included."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    names = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            names.add(value.name)
    return names


def _has_fp16(model: onnx.ModelProto) -> bool:
    """Return whether a graph has float16 inputs, constants or casts.

    Type inference would answer it too, but it copies all weights.
    """
    input_types = (value.type.tensor_type.elem_type for value in model.graph.input)
    types = (*input_types, *(tensor.data_type for tensor in model.graph.initializer))
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    return TensorProto.FLOAT16 in types or any(
        _is_fp16_type(attribute) or attribute.t.data_type == TensorProto.FLOAT16 for attribute in attributes
    )


def _is_fp16_type(attribute: onnx.AttributeProto) -> bool:
    return attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT16


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
