"""Insertion of Q/DQ nodes into a graph, at the places that `qdq_placement` determines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from calibration.quantization.qdq_placement import CONVOLUTIONS, QdqScheme, quantizable_layers, scale_groups
from edge.core.errors import InputError
from edge.release.quantization import QdqPlacement, QuantizationParams, TensorRanges


def quantize(
    model: onnx.ModelProto, ranges: TensorRanges, scheme: QdqScheme, only: Collection[str] | None = None
) -> onnx.ModelProto:
    """Return the fp32 graph with Q/DQ nodes around its convolutions.

    Args:
        model: The fp32 graph.
        ranges: Range of each activation.
        scheme: The Q/DQ scheme of the engine.
        only: Names of the layers to quantize; None for all layers that `quantizable_layers` returns.

    Raises:
        InputError: If a tensor to be quantized has no range: the ranges belong to another graph.
    """
    placement = find_qdq_placement(model, ranges, scheme, only)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    layers = _layers(model, scheme, only)
    nodes = [node for node in graph.node if node.name in layers]
    _insert_activation_qdq(graph, placement.activations, scheme)
    for node in nodes:
        _insert_weight_dq(graph, node, weights, placement, scheme)
    _remove_unused_initializers(graph)
    sort_nodes(graph)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def find_qdq_placement(
    model: onnx.ModelProto, ranges: TensorRanges, scheme: QdqScheme, only: Collection[str] | None = None
) -> QdqPlacement:
    """Return the tensors that `quantize` quantizes, and their parameters. Arguments are those of `quantize`.

    Raises:
        InputError: If a tensor to be quantized has no range.
    """
    layers = _layers(model, scheme, only)
    nodes = [node for node in model.graph.node if node.name in layers]
    groups = scale_groups(model.graph.node, nodes, scheme)
    members = sorted({name for group in groups.values() for name in group})
    return QdqPlacement(
        {tensor: _quantization_params(group, ranges, scheme) for tensor, group in groups.items()},
        {node.input[1]: _output_channel_axis(node) for node in nodes},
        {name: ranges[name] for name in members},
    )


def _layers(model: onnx.ModelProto, scheme: QdqScheme, only: Collection[str] | None) -> set[str]:
    return set(quantizable_layers(model, scheme) if only is None else only)


def _output_channel_axis(node: NodeProto) -> int:
    """Return the axis of the output channels in a convolution's weights."""
    return 1 if node.op_type == "ConvTranspose" else 0


def quantized_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions whose data and weights both come from DequantizeLinear."""
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in CONVOLUTIONS
        and all(producers.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]


def _quantization_params(group: Iterable[str], ranges: TensorRanges, scheme: QdqScheme) -> QuantizationParams:
    try:
        low = min(0.0, *(ranges[name][0] for name in group))
        high = max(0.0, *(ranges[name][1] for name in group))
    except KeyError as error:
        raise InputError(
            f"no range for tensor {error}; expected the ranges of this graph: calibrate again"
        ) from None
    min_scale = float(np.finfo(np.float16).tiny)  # scales must survive the conversion to fp16
    if scheme.activation_dtype is np.uint8:
        scale = max((high - low) / 255, min_scale)
        return QuantizationParams(scale, int(np.clip(round(-low / scale), 0, 255)), 0, 255)
    return QuantizationParams(max(-low / 127, high / 127, min_scale), 0, -128, 127)


def _insert_activation_qdq(
    graph: onnx.GraphProto, activations: Mapping[str, QuantizationParams], scheme: QdqScheme
) -> None:
    outputs = {output.name for output in graph.output}
    for tensor, params in activations.items():
        source, restored = tensor, f"{tensor}_dq"
        if tensor in outputs:  # the graph's output keeps its name
            source, restored = f"{tensor}_plain", tensor
            _rename(graph.node, lambda node: node.output, tensor, source)
        else:
            _rename(graph.node, lambda node: node.input, tensor, restored)
        names = [f"{tensor}_scale", f"{tensor}_zero"]
        graph.initializer.append(numpy_helper.from_array(np.float32(params.scale), names[0]))
        zero_point = scheme.activation_dtype(params.zero_point)
        graph.initializer.append(numpy_helper.from_array(zero_point, names[1]))
        graph.node.extend(_qdq_pair(source, f"{tensor}_q", restored, names))


def _insert_weight_dq(
    graph: onnx.GraphProto,
    node: NodeProto,
    weights: dict[str, onnx.TensorProto],
    placement: QdqPlacement,
    scheme: QdqScheme,
) -> None:
    axis = _output_channel_axis(node)
    weight = numpy_helper.to_array(weights[node.input[1]])
    other_axes = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(axis=other_axes) / 127, 1e-7).astype(np.float32)
    integers = np.clip(np.rint(weight / np.expand_dims(scales, other_axes)), -127, 127).astype(np.int8)
    _insert_dq(graph, node, 1, node.input[1], integers, scales, axis)
    if scheme.integer_only and len(node.input) > 2:
        bias_scales = placement.activations[node.input[0].removesuffix("_dq")].scale * scales
        bias = np.rint(numpy_helper.to_array(weights[node.input[2]]) / bias_scales)
        bias = np.clip(bias, -(2**31) + 1, 2**31 - 1).astype(np.int32)
        # Named after the node, not the tensor: convolutions that share a bias may differ in its scale.
        _insert_dq(graph, node, 2, f"{node.name}_bias", bias, bias_scales.astype(np.float32), 0)


def _insert_dq(
    graph: onnx.GraphProto,
    node: NodeProto,
    input_index: int,
    name: str,
    integers: NDArray[np.signedinteger],
    scales: NDArray[np.float32],
    axis: int,
) -> None:
    node.input[input_index] = restored = f"{name}_dq"
    if any(restored in other.output for other in graph.node):
        return  # a weight that two convolutions share
    names = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
    zeros = np.zeros(scales.shape, integers.dtype)
    for array, label in zip((integers, scales, zeros), names, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, label))
    graph.node.append(helper.make_node("DequantizeLinear", names, [restored], name=restored, axis=axis))


def _qdq_pair(source: str, quantized: str, restored: str, scale: list[str]) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, *scale], [quantized], name=quantized),
        helper.make_node("DequantizeLinear", [quantized, *scale], [restored], name=f"{quantized}_dq"),
    ]


def _rename(
    nodes: Iterable[NodeProto], names_of: Callable[[NodeProto], list[str]], old: str, new: str
) -> None:
    for node in nodes:
        names = names_of(node)
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _remove_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes of a graph topologically, in place."""
    available = {t.name for t in graph.initializer} | {i.name for i in graph.input} | {""}
    waiting = [
        (node, set(node.input)) for node in graph.node
    ]  # reading a protobuf takes longer than the rest
    ordered: list[NodeProto] = []
    while waiting:
        ready = [node for node, inputs in waiting if inputs <= available]
        assert ready, "the graph has a cycle"
        waiting = [(node, inputs) for node, inputs in waiting if not inputs <= available]
        available.update(name for node in ready for name in node.output)
        ordered += ready
    del graph.node[:]
    graph.node.extend(ordered)
