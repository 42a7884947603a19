"""Insertion of Q/DQ nodes into a graph, at the places that `qdq_placement` determines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from calibration.quantization.free_names import FreeNames
from calibration.quantization.qdq_placement import (
    CONVOLUTIONS,
    MOVABLE_OPERATORS,
    QdqScheme,
    quantizable_layers,
    scale_groups,
)
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
    layers = _layers(model, scheme, only)
    nodes = [node for node in graph.node if node.name in layers]
    insertion = _QdqInsertion(graph, scheme)
    insertion.add_activations(placement.activations)
    for node in nodes:
        insertion.add_weights(node)
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
    ranges = {**_constant_ranges(model, groups), **ranges, **_whole_ranges(model, scheme)}
    members = sorted({name for group in groups.values() for name in group})
    return QdqPlacement(
        {tensor: _quantization_params(group, ranges, scheme) for tensor, group in groups.items()},
        {node.input[1]: _output_channel_axis(node) for node in nodes},
        {name: ranges[name] for name in members},
    )


def _constant_ranges(model: onnx.ModelProto, groups: Mapping[str, Iterable[str]]) -> TensorRanges:
    """Return the range of each constant in a group, such as a prior map that a Concat joins."""
    members = {name for group in groups.values() for name in group}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
    values = {name: numpy_helper.to_array(constants[name]) for name in members & constants.keys()}
    return {name: (float(value.min()), float(value.max())) for name, value in values.items() if value.size}


def _whole_ranges(model: onnx.ModelProto, scheme: QdqScheme) -> TensorRanges:
    """Return the range of each tensor that may never exceed its range in integers.

    These are the outputs of the operators that wrap around, and what the engine may quantize in their place.
    """
    ranges: TensorRanges = {}
    for node in model.graph.node:  # ONNX requires topological order
        whole = scheme.wrapping_operators.get(node.op_type)
        if whole is None and node.op_type in MOVABLE_OPERATORS:
            whole = ranges.get(node.input[0])
        if whole is not None:
            ranges.update(dict.fromkeys(node.output, whole))
    return ranges


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


class _QdqInsertion:
    """Inserts Q/DQ nodes into a graph, in place, under names that the graph does not use."""

    def __init__(self, graph: onnx.GraphProto, scheme: QdqScheme) -> None:
        self._graph, self._scheme = graph, scheme
        self._free_name = FreeNames(graph)
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._params: dict[str, QuantizationParams] = {}
        """Parameters of each restored activation."""
        self._restored: dict[tuple[str, int], str] = {}
        """Restored weights by name and axis; convolutions may share weights."""

    def add_activations(self, activations: Mapping[str, QuantizationParams]) -> None:
        """Quantize activations for all their readers."""
        outputs = {output.name for output in self._graph.output}
        for tensor, params in activations.items():
            if tensor in outputs:  # the graph's output keeps its name
                source, restored = self._free_name(f"{tensor}_plain"), tensor
                _rename(self._graph.node, lambda node: node.output, tensor, source)
            else:
                source, restored = tensor, self._free_name(f"{tensor}_dq")
                _rename(self._graph.node, lambda node: node.input, tensor, restored)
            scale = self._add_constant(np.float32(params.scale), f"{tensor}_scale")
            zero_point = self._scheme.activation_dtype(params.zero_point)
            zero = self._add_constant(zero_point, f"{tensor}_zero")
            quantized = self._free_name(f"{tensor}_q")
            self._params[restored] = params
            self._graph.node.append(
                helper.make_node("QuantizeLinear", [source, scale, zero], [quantized], name=quantized)
            )
            self._add_dq([quantized, scale, zero], restored, self._free_name(f"{quantized}_dq"))

    def add_weights(self, node: NodeProto) -> None:
        """Quantize the weights of a convolution, and its bias if the scheme asks for it."""
        axis = _output_channel_axis(node)
        weight = numpy_helper.to_array(self._weights[node.input[1]])
        other_axes = tuple(i for i in range(weight.ndim) if i != axis)
        scales = np.maximum(np.abs(weight).max(axis=other_axes) / 127, 1e-7).astype(np.float32)
        key = node.input[1], axis
        if key not in self._restored:
            integers = np.clip(np.rint(weight / np.expand_dims(scales, other_axes)), -127, 127)
            self._restored[key] = self._add_integers(node.input[1], integers.astype(np.int8), scales, axis)
        node.input[1] = self._restored[key]
        if self._scheme.integer_only and len(node.input) > 2 and node.input[2]:
            bias_scales = self._params[node.input[0]].scale * scales
            bias = np.rint(numpy_helper.to_array(self._weights[node.input[2]]) / bias_scales)
            integers = np.clip(bias, -(2**31) + 1, 2**31 - 1).astype(np.int32)
            # Named after the node, not the tensor: convolutions that share a bias may differ in its scale.
            name = f"{node.name}_bias"
            node.input[2] = self._add_integers(name, integers, bias_scales.astype(np.float32), 0)

    def _add_integers(
        self, name: str, integers: NDArray[np.signedinteger], scales: NDArray[np.float32], axis: int
    ) -> str:
        """Add constants in integers and the DequantizeLinear that restores them; return its output."""
        zeros = np.zeros(scales.shape, integers.dtype)
        parts = ((integers, "q"), (scales, "scale"), (zeros, "zero"))
        names = [self._add_constant(array, f"{name}_{label}") for array, label in parts]
        restored = self._free_name(f"{name}_dq")
        self._add_dq(names, restored, restored, axis=axis)
        return restored

    def _add_constant(self, value: Any, wanted: str) -> str:
        name = self._free_name(wanted)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _add_dq(self, inputs: list[str], restored: str, name: str, **attributes: Any) -> None:
        self._graph.node.append(
            helper.make_node("DequantizeLinear", inputs, [restored], name=name, **attributes)
        )


def _rename(
    nodes: Iterable[NodeProto], names_of: Callable[[NodeProto], list[str]], old: str, new: str
) -> None:
    for node in nodes:
        names = names_of(node)
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def _remove_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
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
