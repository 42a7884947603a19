"""float16 really computed on a CPU.

ONNX Runtime has no float16 operators on most CPUs: it computes them in float32 and drops the roundings
between them. A graph judged so hides overflow and lost digits. Here every float16 tensor is rounded, by
a pair of casts that are the graph's own, which ONNX Runtime keeps. Sums inside an operator stay float32,
as they mostly do in TensorRT.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FP16_MAX = float(np.finfo(np.float16).max)
"""The greatest number in float16, 65504."""
UNROUNDED_SUFFIX = ".exact"
"""Ends the names of what operators give before it is rounded."""


def emulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph computing in float32, with the output of each float16 operator rounded to float16.

    Tensors keep their names and types; beside them are `NAME.exact` and `NAME.float`, before and after
    rounding, in float32. A graph without float16 is returned as it is.
    """
    if not _has_half(model):
        return model
    halves = fp16_tensors(model)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        _widen(tensor)
    wide = {name: f"{name}.float" for name in halves - constants}
    nodes = [
        _cast(value.name, wide[value.name], TensorProto.FLOAT) for value in graph.input if value.name in wide
    ]
    for node in graph.node:
        for attribute in node.attribute:
            _widen(attribute.t)
            if _names_half(attribute):
                attribute.i = TensorProto.FLOAT
        outputs = [name for name in node.output if name in wide]
        node.input[:] = [wide.get(name, name) for name in node.input]
        node.output[:] = [f"{name}{UNROUNDED_SUFFIX}" if name in wide else name for name in node.output]
        nodes.append(node)
        for name in outputs:
            nodes.append(_cast(f"{name}{UNROUNDED_SUFFIX}", name, TensorProto.FLOAT16))
            nodes.append(_cast(name, wide[name], TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return made


def fp16_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float16 tensors of a graph, constants too."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            found.add(value.name)
    return found


def _has_half(model: onnx.ModelProto) -> bool:
    """Say whether float16 comes in anywhere, without inferring types, which takes a copy of all weights."""
    inputs = (value.type.tensor_type.elem_type for value in model.graph.input)
    kinds = (*inputs, *(tensor.data_type for tensor in model.graph.initializer))
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    return TensorProto.FLOAT16 in kinds or any(
        _names_half(attribute) or attribute.t.data_type == TensorProto.FLOAT16 for attribute in attributes
    )


def _names_half(attribute: onnx.AttributeProto) -> bool:
    return attribute.name in ("to", "dtype", "output_dtype") and attribute.i == TensorProto.FLOAT16


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast(given: str, made: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], f"{made} from {given}", to=kind)
