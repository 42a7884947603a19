"""Inserts Q/DQ nodes into a graph where `qdq_placement` says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from calibration.quantization.qdq_placement import CPU, TENSORRT, QdqScheme, quantizable_layers, scale_groups
from edge.core.errors import InputError
from edge.release.quantization import QdqPlacement, QuantizationParams, TensorRanges

__all__ = ["CPU", "TENSORRT", "QdqScheme", "quantization_places", "quantize", "quantized_nodes", "sort_nodes"]


def quantize(
    model: onnx.ModelProto, ranges: TensorRanges, scheme: QdqScheme, only: Collection[str] | None = None
) -> onnx.ModelProto:
    """Return the fp32 graph with Q/DQ nodes on the convolutions worth quantising, or on `only` these.

    Raises:
        InputError: a tensor to be quantised has no range (the ranges are of another graph).
    """
    found = quantization_places(model, ranges, scheme, only)
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    layers = _layers(model, scheme, only)
    chosen = [node for node in graph.node if node.name in layers]
    _insert_activations(graph, found.activations, scheme)
    for node in chosen:
        _insert_weights(graph, node, weights, found, scheme)
    _drop_unused(graph)
    sort_nodes(graph)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def quantization_places(
    model: onnx.ModelProto, ranges: TensorRanges, scheme: QdqScheme, only: Collection[str] | None = None
) -> QdqPlacement:
    """Return what `quantize` rounds, and how.

    Raises:
        InputError: as `quantize`.
    """
    layers = _layers(model, scheme, only)
    chosen = [node for node in model.graph.node if node.name in layers]
    group = scale_groups(model.graph.node, chosen, scheme)
    members = sorted({name for together in group.values() for name in together})
    return QdqPlacement(
        {tensor: _rounding(together, ranges, scheme) for tensor, together in group.items()},
        {node.input[1]: _axis(node) for node in chosen},
        {name: ranges[name] for name in members},
    )


def _layers(model: onnx.ModelProto, scheme: QdqScheme, only: Collection[str] | None) -> set[str]:
    return set(quantizable_layers(model, scheme) if only is None else only)


def _axis(node: NodeProto) -> int:
    """Return the axis of a convolution's weights that its output channels are on."""
    return 1 if node.op_type == "ConvTranspose" else 0


def quantized_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes whose data and weight inputs both come from DequantizeLinear."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in {"Conv", "ConvTranspose"}
        and all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]


def _rounding(members: Iterable[str], ranges: TensorRanges, scheme: QdqScheme) -> QuantizationParams:
    try:
        low = min(0.0, *(ranges[name][0] for name in members))
        high = max(0.0, *(ranges[name][1] for name in members))
    except KeyError as error:
        raise InputError(
            f"no range for tensor {error}; expected ranges of this very graph: calibrate again"
        ) from None
    least = float(np.finfo(np.float16).tiny)  # scales must survive the conversion to fp16
    if scheme.activation_dtype is np.uint8:
        scale = max((high - low) / 255, least)
        return QuantizationParams(scale, int(np.clip(round(-low / scale), 0, 255)), 0, 255)
    return QuantizationParams(max(-low / 127, high / 127, least), 0, -128, 127)


def _insert_activations(
    graph: onnx.GraphProto, scales: Mapping[str, QuantizationParams], scheme: QdqScheme
) -> None:
    kind = scheme.activation_dtype
    outputs = {output.name for output in graph.output}
    for tensor, scale in scales.items():
        plain, restored = tensor, f"{tensor}_dq"
        if tensor in outputs:  # the graph's output keeps its name
            plain, restored = f"{tensor}_plain", tensor
            _rename(graph.node, lambda node: node.output, tensor, plain)
        else:
            _rename(graph.node, lambda node: node.input, tensor, restored)
        names = [f"{tensor}_scale", f"{tensor}_zero"]
        graph.initializer.append(numpy_helper.from_array(np.float32(scale.scale), names[0]))
        graph.initializer.append(numpy_helper.from_array(kind(scale.zero_point), names[1]))
        graph.node.extend(_pair(plain, f"{tensor}_q", restored, names))


def _insert_weights(
    graph: onnx.GraphProto,
    node: NodeProto,
    weights: dict[str, onnx.TensorProto],
    found: QdqPlacement,
    scheme: QdqScheme,
) -> None:
    axis = _axis(node)
    weight = numpy_helper.to_array(weights[node.input[1]])
    others = tuple(i for i in range(weight.ndim) if i != axis)
    per_channel = np.maximum(np.abs(weight).max(axis=others) / 127, 1e-7).astype(np.float32)
    spread = np.expand_dims(per_channel, others)
    integers = np.clip(np.rint(weight / spread), -127, 127).astype(np.int8)
    _dequantised(graph, node, 1, node.input[1], integers, per_channel, axis)
    if scheme.integer_only and len(node.input) > 2:
        scale = found.activations[node.input[0].removesuffix("_dq")].scale * per_channel
        bias = np.rint(numpy_helper.to_array(weights[node.input[2]]) / scale)
        bias = np.clip(bias, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        # By node, not by tensor: convolutions that share a bias need not share its scale.
        _dequantised(graph, node, 2, f"{node.name}_bias", bias, scale.astype(np.float32), 0)


def _dequantised(
    graph: onnx.GraphProto,
    node: NodeProto,
    place: int,
    name: str,
    integers: NDArray[np.signedinteger],
    scale: NDArray[np.float32],
    axis: int,
) -> None:
    node.input[place] = restored = f"{name}_dq"
    if any(restored in other.output for other in graph.node):
        return  # a weight that two convolutions share
    names = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
    zeros = np.zeros(scale.shape, integers.dtype)
    for array, label in zip((integers, scale, zeros), names, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, label))
    graph.node.append(helper.make_node("DequantizeLinear", names, [restored], name=restored, axis=axis))


def _pair(plain: str, quantised: str, restored: str, scale: list[str]) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [plain, *scale], [quantised], name=quantised),
        helper.make_node("DequantizeLinear", [quantised, *scale], [restored], name=f"{quantised}_dq"),
    ]


def _rename(nodes: Iterable[NodeProto], side: Callable[[NodeProto], list[str]], old: str, new: str) -> None:
    for node in nodes:
        names = side(node)
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in topological order."""
    known = {t.name for t in graph.initializer} | {i.name for i in graph.input} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        assert ready, "the graph has a cycle"
        known |= {name for node in ready for name in node.output}
        ordered += ready
        waiting = [node for node in waiting if not all(name in known for name in node.output)]
    del graph.node[:]
    graph.node.extend(ordered)
