"""Explicit quantisation: Q/DQ nodes in the graph, placed as each engine wants them.

Both flavours come from the same ranges. For TensorRT (its developer guide, "Explicit
quantization"): signed and symmetric, weights per output channel, bias left float, one scale around
Concat and pooling. For ONNX Runtime's CPU kernels: unsigned activations, so that a ReLU is absorbed
into the convolution before it; int32 bias; and the outputs of convolutions quantised too, since its
integer convolution has no float output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from calibration.ranges import Ranges
from edge.errors import InputError

LEAST_CHANNELS = 16
"""Convolutions with fewer input or output channels are left alone: int8 gains nothing there."""
PASSING = {"Concat", "MaxPool"}
"""Operators that hand values through."""


@dataclass(frozen=True)
class Flavour:
    """How activations are quantised for an engine."""

    integer: type[np.int8] | type[np.uint8]
    """Of activations: int8 is symmetric about 0; uint8 has a zero point."""
    operators: frozenset[str]
    """Kinds of convolution that the engine computes in integers."""
    shared: frozenset[str]
    """Operators that hand values through and want one scale for inputs and output."""
    whole: bool
    """The engine's integer convolutions have integer outputs and biases only: quantise these, and
    what is handed through, too. (TensorRT moves a Q behind Concat or pooling to their inputs itself.)"""


TENSORRT = Flavour(
    integer=np.int8,
    operators=frozenset({"Conv", "ConvTranspose"}),
    shared=frozenset(PASSING),
    whole=False,
)
CPU = Flavour(
    integer=np.uint8,
    operators=frozenset({"Conv"}),  # ONNX Runtime has no integer ConvTranspose
    shared=frozenset({"MaxPool"}),  # its integer Concat takes a scale for each input
    whole=True,
)


@dataclass(frozen=True)
class _Scale:
    scale: float
    zero_point: int


def quantise(model: onnx.ModelProto, ranges: Ranges, flavour: Flavour) -> onnx.ModelProto:
    """Return the fp32 graph with Q/DQ nodes on the convolutions worth quantising.

    The last layer, the saliency head, is never quantised.

    Raises:
        InputError: a tensor to be quantised has no range (the ranges are of another graph).
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [node for node in graph.node if _worth(node, weights, flavour)]
    group = _groups(graph.node, chosen, flavour)
    scales = {tensor: _activation_scale(members, ranges, flavour) for tensor, members in group.items()}
    _insert_activations(graph, scales, flavour)
    for node in chosen:
        _insert_weights(graph, node, weights, scales, flavour)
    _drop_unused(graph)
    sort(graph)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes whose data and weight inputs both come from DequantizeLinear."""
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in {"Conv", "ConvTranspose"}
        and all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]


def _worth(node: NodeProto, weights: dict[str, onnx.TensorProto], flavour: Flavour) -> bool:
    if node.op_type not in flavour.operators or node.input[1] not in weights:
        return False
    first, second = weights[node.input[1]].dims[:2]
    outputs, inputs = (second, first) if node.op_type == "ConvTranspose" else (first, second)
    inputs *= next((a.i for a in node.attribute if a.name == "group" and node.op_type == "Conv"), 1)
    return bool(inputs >= LEAST_CHANNELS and outputs >= LEAST_CHANNELS)


def _groups(
    nodes: Iterable[NodeProto], chosen: Iterable[NodeProto], flavour: Flavour
) -> dict[str, frozenset[str]]:
    """Return every tensor to quantise with the tensors that share its scale, itself included."""
    nodes = list(nodes)
    producer = {output: node for node in nodes for output in node.output}
    relu = {node.input[0]: node.output[0] for node in nodes if node.op_type in {"Relu", "Clip"}}
    group: dict[str, frozenset[str]] = {}
    placed: set[str] = set()

    def add(tensor: str, place: bool) -> None:
        if tensor in placed or (tensor in group and not place):
            return
        group.setdefault(tensor, frozenset({tensor}))
        placed.update({tensor} if place else ())
        node = producer.get(tensor)
        for name in node.input if node is not None and node.op_type in PASSING else ():
            add(name, place and flavour.whole)
            if node is not None and node.op_type in flavour.shared:
                joined = group[tensor] | group[name]
                group.update(dict.fromkeys(joined, joined))

    for node in chosen:
        add(node.input[0], place=True)
        if flavour.whole:
            add(relu.get(node.output[0], node.output[0]), place=True)
    return {tensor: group[tensor] for tensor in sorted(placed)}


def _activation_scale(members: Iterable[str], ranges: Ranges, flavour: Flavour) -> _Scale:
    try:
        low = min(0.0, *(ranges[name][0] for name in members))
        high = max(0.0, *(ranges[name][1] for name in members))
    except KeyError as error:
        raise InputError(
            f"no range for tensor {error}; expected ranges of this very graph: calibrate again"
        ) from None
    least = float(np.finfo(np.float16).tiny)  # scales must survive the conversion to fp16
    if flavour.integer is np.uint8:
        scale = max((high - low) / 255, least)
        return _Scale(scale, int(np.clip(round(-low / scale), 0, 255)))
    return _Scale(max(-low / 127, high / 127, least), 0)


def _insert_activations(graph: onnx.GraphProto, scales: dict[str, _Scale], flavour: Flavour) -> None:
    kind = flavour.integer
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
    scales: dict[str, _Scale],
    flavour: Flavour,
) -> None:
    axis = 1 if node.op_type == "ConvTranspose" else 0
    weight = numpy_helper.to_array(weights[node.input[1]])
    others = tuple(i for i in range(weight.ndim) if i != axis)
    per_channel = np.maximum(np.abs(weight).max(axis=others) / 127, 1e-7).astype(np.float32)
    spread = np.expand_dims(per_channel, others)
    integers = np.clip(np.rint(weight / spread), -127, 127).astype(np.int8)
    _dequantised(graph, node, 1, node.input[1], integers, per_channel, axis)
    if flavour.whole and len(node.input) > 2:
        scale = scales[node.input[0].removesuffix("_dq")].scale * per_channel
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


def sort(graph: onnx.GraphProto) -> None:
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
