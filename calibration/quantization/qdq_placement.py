"""Placement of Q/DQ nodes for each engine, and the choice of convolutions that are worth quantizing.

Both schemes use the same ranges, except for operators that wrap around.

TensorRT (its developer guide, "Explicit quantization"): signed and symmetric activations, weights with one
scale per output channel, float bias, one scale around Concat and pooling. At a residual Add, the branch that
is not the convolution is quantized, so that convolution and Add become one kernel.

ONNX Runtime's CPU kernels: unsigned activations, so that a ReLU is absorbed into the convolution before it;
int32 bias. Outputs of convolutions are quantized too, because the integer convolution has no float output.
So are both inputs and the output of a residual Add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto

MIN_CHANNELS = 16
"""Convolutions with fewer input or output channels stay in float: int8 gains nothing there."""
CONVOLUTIONS = ("Conv", "ConvTranspose")
WEIGHTED_OPERATORS = {*CONVOLUTIONS, "Gemm", "MatMul"}
"""Operators that usually have weights."""
PASS_THROUGH = {"Concat", "MaxPool"}
"""Operators whose outputs are values of their inputs."""
MOVABLE_OPERATORS = {
    "Cast", "Clip", "Dropout", "Expand", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "Squeeze",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that ONNX Runtime removes, or moves behind the Q that follows them. That Q then quantizes their
input."""
Consumers = dict[str, list[NodeProto]]


@dataclass(frozen=True)
class QdqScheme:
    """Rules of an engine for Q/DQ nodes.

    Attributes:
        activation_dtype: Integer type of activations. int8 is symmetric about 0, uint8 has a zero point.
        convolutions: Convolution operators that the engine computes in integers.
        shared_scale_operators: Pass-through operators that need one scale for their inputs and outputs.
        integer_only: Integer convolutions of the engine have integer outputs and biases only. Outputs,
            biases and the inputs of pass-through operators are quantized too. (TensorRT itself moves a Q
            behind Concat or pooling to the inputs.)
        wrapping_operators: Operators whose integer kernel wraps around where a value exceeds the range of its
            output, with the range of all values that they can give.
    """

    activation_dtype: type[np.int8] | type[np.uint8]
    convolutions: frozenset[str]
    shared_scale_operators: frozenset[str]
    integer_only: bool
    wrapping_operators: Mapping[str, tuple[float, float]]


TENSORRT = QdqScheme(
    activation_dtype=np.int8,
    convolutions=frozenset(CONVOLUTIONS),
    shared_scale_operators=frozenset(PASS_THROUGH),
    integer_only=False,
    wrapping_operators={},
)
CPU = QdqScheme(
    activation_dtype=np.uint8,
    convolutions=frozenset({"Conv"}),  # ONNX Runtime has no integer ConvTranspose
    shared_scale_operators=frozenset({"MaxPool"}),  # its integer Concat takes a scale for each input
    integer_only=True,
    wrapping_operators={"Softmax": (0.0, 1.0)},  # QLinearSoftmax of ONNX Runtime 1.31; its other kernels clip
)


def quantizable_layers(model: onnx.ModelProto, scheme: QdqScheme) -> list[str]:
    """Return the names of the convolutions that are worth quantizing, in graph order.

    Heads, convolutions with few channels and convolutions whose weights are not constants are excluded.
    Node names must be unique.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = _heads(model.graph)
    return [
        node.name
        for node in model.graph.node
        if node.name not in heads and _is_worth_quantizing(node, weights, scheme)
    ]


def _heads(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the last nodes with weights on each path to an output."""
    before_weights: set[str] = set()
    heads = set()
    for node in reversed(graph.node):  # ONNX requires topological order
        weighted = node.op_type in WEIGHTED_OPERATORS
        if weighted or before_weights & set(node.output):
            if weighted and not before_weights & set(node.output):
                heads.add(node.name)
            before_weights |= set(node.input)
    return heads


def _is_worth_quantizing(node: NodeProto, weights: dict[str, onnx.TensorProto], scheme: QdqScheme) -> bool:
    if node.op_type not in scheme.convolutions or node.input[1] not in weights:
        return False
    if len(node.input) > 2 and node.input[2] and node.input[2] not in weights:
        return False
    first, second = weights[node.input[1]].dims[:2]
    outputs, inputs = (second, first) if node.op_type == "ConvTranspose" else (first, second)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "ConvTranspose":
        outputs *= group
        if group > 1:  # axis 1 of its weights holds the channels of one group only: no scale per channel
            return False
    else:
        inputs *= group
    return bool(inputs >= MIN_CHANNELS and outputs >= MIN_CHANNELS)


def scale_groups(
    nodes: Iterable[NodeProto], chosen: Iterable[NodeProto], scheme: QdqScheme
) -> dict[str, frozenset[str]]:
    """Return every tensor to quantize, with the tensors that share its scale, itself included.

    Args:
        nodes: All nodes of the graph.
        chosen: The convolutions to quantize.
        scheme: The Q/DQ scheme of the engine.
    """
    nodes, chosen = list(nodes), list(chosen)
    grouping = _ScaleGrouping(nodes, scheme)
    for node in chosen:
        grouping.add(node.input[0], quantized=True)
        if scheme.integer_only:
            grouping.add(grouping.behind_activation(node.output[0]), quantized=True)
        for add in fusible_residual_adds(node, grouping.producers, grouping.consumers, chosen):
            if scheme.integer_only:
                for name in (*add.input, grouping.behind_activation(add.output[0])):
                    grouping.add(name, quantized=True)
            else:
                grouping.add(next(name for name in add.input if name != node.output[0]), quantized=True)
    return grouping.quantized_groups()


class _ScaleGrouping:
    """Collects the tensors to quantize, and joins those that must share a scale."""

    def __init__(self, nodes: Sequence[NodeProto], scheme: QdqScheme) -> None:
        self.producers = {output: node for node in nodes for output in node.output}
        self.consumers: Consumers = {}
        for node in nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self._scheme = scheme
        self._groups: dict[str, frozenset[str]] = {}
        self._quantized: set[str] = set()

    def add(self, tensor: str, quantized: bool) -> None:
        """Add a tensor and, recursively, the inputs of the pass-through operator that produces it."""
        if tensor in self._quantized or (tensor in self._groups and not quantized):
            return
        self._groups.setdefault(tensor, frozenset({tensor}))
        self._quantized.update({tensor} if quantized else ())
        node = self.producers.get(tensor)
        if node is None or node.op_type not in PASS_THROUGH:
            return
        for name in node.input:
            self.add(name, quantized and self._scheme.integer_only)
            if node.op_type in self._scheme.shared_scale_operators:
                joined = self._groups[tensor] | self._groups[name]
                self._groups.update(dict.fromkeys(joined, joined))

    def behind_activation(self, tensor: str) -> str:
        """Return the output of the ReLU or Clip that is the tensor's only consumer, or the tensor itself."""
        after = self.consumers.get(tensor, [])
        alone = len(after) == 1 and after[0].op_type in {"Relu", "Clip"} and after[0].input[0] == tensor
        return after[0].output[0] if alone else tensor

    def quantized_groups(self) -> dict[str, frozenset[str]]:
        """Return the group of each tensor to quantize, sorted by name."""
        return {tensor: self._groups[tensor] for tensor in sorted(self._quantized)}


def fusible_residual_adds(
    node: NodeProto,
    producers: dict[str, NodeProto],
    consumers: Consumers,
    chosen: list[NodeProto],
) -> list[NodeProto]:
    """Return the Add that fuses into a convolution, or an empty list.

    The Add is the only consumer of the convolution's output; its other input is another activation. If both
    inputs come from such convolutions, it fuses into the later one.

    Args:
        node: The convolution.
        producers: Producer of each tensor.
        consumers: Consumers of each tensor.
        chosen: The convolutions to quantize, in graph order.
    """
    after = consumers.get(node.output[0], [])
    if len(after) != 1 or after[0].op_type != "Add" or len(set(after[0].input)) != 2:
        return []
    other = next(name for name in after[0].input if name != node.output[0])
    producer = producers.get(other)
    if producer is None:  # a constant, or an input of the graph
        return []
    order = [convolution.name for convolution in chosen]
    is_later = producer.name in order and order.index(producer.name) > order.index(node.name)
    return [] if is_later and len(consumers[other]) == 1 else [after[0]]
