"""Where Q/DQ goes, for each engine, and which convolutions are worth it.

Both flavours come from the same ranges. For TensorRT (its developer guide, "Explicit
quantization"): signed and symmetric, weights per output channel, bias left float, one scale around
Concat and pooling, and at a residual Add the branch that is not the convolution quantised, so that
convolution and Add become one kernel. For ONNX Runtime's CPU kernels: unsigned activations, so that a
ReLU is absorbed into the convolution before it; int32 bias; and the outputs of convolutions quantised
too, since its integer convolution has no float output; so are both sides and the sum of a residual Add.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

MIN_CHANNELS = 16
"""Convolutions with fewer input or output channels are left alone: int8 gains nothing there."""
WEIGHTED_OPERATORS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators that have weights, mostly."""
PASS_THROUGH = {"Concat", "MaxPool"}
"""Operators that hand values through."""


@dataclass(frozen=True)
class QdqScheme:
    """How activations are quantised for an engine."""

    activation_dtype: type[np.int8] | type[np.uint8]
    """Of activations: int8 is symmetric about 0; uint8 has a zero point."""
    convolutions: frozenset[str]
    """Kinds of convolution that the engine computes in integers."""
    shared_scale_operators: frozenset[str]
    """Operators that hand values through and want one scale for inputs and output."""
    integer_only: bool
    """The engine's integer convolutions have integer outputs and biases only: quantise these, and
    what is handed through, too. (TensorRT moves a Q behind Concat or pooling to their inputs itself.)"""


TENSORRT = QdqScheme(
    activation_dtype=np.int8,
    convolutions=frozenset({"Conv", "ConvTranspose"}),
    shared_scale_operators=frozenset(PASS_THROUGH),
    integer_only=False,
)
CPU = QdqScheme(
    activation_dtype=np.uint8,
    convolutions=frozenset({"Conv"}),  # ONNX Runtime has no integer ConvTranspose
    shared_scale_operators=frozenset({"MaxPool"}),  # its integer Concat takes a scale for each input
    integer_only=True,
)


def quantizable_layers(model: onnx.ModelProto, scheme: QdqScheme) -> list[str]:
    """Return the names of the convolutions that int8 may serve, in the order of the graph.

    Not: heads, those of few channels, or of weights that are no constants. Nodes must have names of
    their own.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = _heads(model.graph)
    return [n.name for n in model.graph.node if n.name not in heads and _worth(n, weights, scheme)]


def _heads(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes behind which nothing with weights comes."""
    before_weights: set[str] = set()
    heads = set()
    for node in reversed(graph.node):  # in topological order, as ONNX demands
        weighted = node.op_type in WEIGHTED_OPERATORS
        if weighted or before_weights & set(node.output):
            if weighted and not before_weights & set(node.output):
                heads.add(node.name)
            before_weights |= set(node.input)
    return heads


def _worth(node: NodeProto, weights: dict[str, onnx.TensorProto], scheme: QdqScheme) -> bool:
    if node.op_type not in scheme.convolutions or node.input[1] not in weights:
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in weights:
        return False
    first, second = weights[node.input[1]].dims[:2]
    outputs, inputs = (second, first) if node.op_type == "ConvTranspose" else (first, second)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "ConvTranspose":
        outputs *= group
        if group > 1:  # its weights' axis 1 holds the channels of one group only: no scale per channel
            return False
    else:
        inputs *= group
    return bool(inputs >= MIN_CHANNELS and outputs >= MIN_CHANNELS)


def scale_groups(
    nodes: Iterable[NodeProto], chosen: Iterable[NodeProto], scheme: QdqScheme
) -> dict[str, frozenset[str]]:
    """Return every tensor to quantise with the tensors that share its scale, itself included."""
    nodes, chosen = list(nodes), list(chosen)
    producer = {output: node for node in nodes for output in node.output}
    consumers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    group: dict[str, frozenset[str]] = {}
    placed: set[str] = set()

    def add(tensor: str, place: bool) -> None:
        if tensor in placed or (tensor in group and not place):
            return
        group.setdefault(tensor, frozenset({tensor}))
        placed.update({tensor} if place else ())
        node = producer.get(tensor)
        for name in node.input if node is not None and node.op_type in PASS_THROUGH else ():
            add(name, place and scheme.integer_only)
            if node is not None and node.op_type in scheme.shared_scale_operators:
                joined = group[tensor] | group[name]
                group.update(dict.fromkeys(joined, joined))

    def activated(tensor: str) -> str:
        """Return the tensor behind the ReLU or Clip that is the only one to take it, if any."""
        after = consumers.get(tensor, [])
        alone = len(after) == 1 and after[0].op_type in {"Relu", "Clip"} and after[0].input[0] == tensor
        return after[0].output[0] if alone else tensor

    for node in chosen:
        add(node.input[0], place=True)
        if scheme.integer_only:
            add(activated(node.output[0]), place=True)
        for sum_ in fusible_residual_adds(node, producer, consumers, chosen):
            if scheme.integer_only:
                for name in (*sum_.input, activated(sum_.output[0])):
                    add(name, place=True)
            else:
                add(next(name for name in sum_.input if name != node.output[0]), place=True)
    return {tensor: group[tensor] for tensor in sorted(placed)}


def fusible_residual_adds(
    node: NodeProto,
    producer: dict[str, NodeProto],
    consumers: dict[str, list[NodeProto]],
    chosen: list[NodeProto],
) -> list[NodeProto]:
    """Return the Add, if any, that fuses into a convolution: the one that takes what it gives, and
    another activation. Where both sides are such convolutions, it fuses into the later one.
    """
    after = consumers.get(node.output[0], [])
    if len(after) != 1 or after[0].op_type != "Add" or len(set(after[0].input)) != 2:
        return []
    other = next(name for name in after[0].input if name != node.output[0])
    made = producer.get(other)
    if made is None:  # a constant, or an input of the graph
        return []
    order = [one.name for one in chosen]
    if made.name in order and len(consumers[other]) == 1 and order.index(made.name) > order.index(node.name):
        return []
    return [after[0]]
