"""Work of an ONNX graph: multiply-accumulates and bytes moved by each layer.

A layer is what an engine computes in one kernel. It reads its weights and those of its activations that other
layers produce, and writes those of its results that other layers need. So the bytes are those of an engine
that keeps nothing in a cache from one layer to the next. Types are the graph's: a layer between Q/DQ nodes
reads and writes one byte per value.

Convolutions, transposed convolutions, products of matrices and recurrent layers are counted as
multiply-accumulates. Of activations, norms, pooling and resizing only the bytes are, as is usual in papers.
A position at the border counts like any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.core.errors import InputError
from edge.release.onnx_graph import OnnxGraph, OnnxNode, Shape, TensorType

WEIGHT_INPUTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Convolutions, and the index of the input that has their weights."""
MATRIX_PRODUCTS = {"MatMul", "MatMulInteger", "QLinearMatMul"}
RECURRENT_OPERATORS = {"LSTM", "GRU", "RNN"}
COUNTED_OPERATORS = {*WEIGHT_INPUTS, *MATRIX_PRODUCTS, *RECURRENT_OPERATORS, "Gemm"}
"""Operators whose multiply-accumulates are counted."""
ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "BatchNormalization"}
"""Operators that engines compute together with the convolution before them."""
VIEWS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Shape"}
"""Operators that move no data."""
SELECTIONS = {"Slice", "Gather", "Split"}
"""Operators that read only what they write."""


@dataclass(frozen=True)
class Work:
    """Work of a layer or a graph in one call.

    Attributes:
        macs: Multiply-accumulates.
        weight_bytes: Bytes of the weights, scales and other constants that it reads.
        read_bytes: Bytes of the activations and states that it reads.
        written_bytes: Bytes that it writes.
    """

    macs: int = 0
    weight_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def moved_bytes(self) -> int:
        """Return all bytes, read and written."""
        return self.weight_bytes + self.read_bytes + self.written_bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            self.macs + other.macs,
            self.weight_bytes + other.weight_bytes,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )


def count_macs(op: str, inputs: Sequence[Shape], output: Shape) -> int:
    """Return the multiply-accumulates of a node, for its whole batch.

    Args:
        op: Operator of ONNX.
        inputs: Shapes of its inputs.
        output: Shape of its first output.
    """
    if op in WEIGHT_INPUTS:
        # Each weight is applied once at each position of the output, or of the input of a transposed one.
        positions = inputs[0] if op == "ConvTranspose" else output
        return math.prod(inputs[WEIGHT_INPUTS[op]]) * math.prod(positions[2:]) * positions[0]
    if op in MATRIX_PRODUCTS:
        return math.prod(output) * inputs[0][-1]
    if op == "Gemm":  # either operand may be transposed
        return math.prod(output) * (math.prod(inputs[1]) // output[-1])
    if op in RECURRENT_OPERATORS:
        steps, batch, _ = inputs[0]
        return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))
    return 0


def count_work(
    graph: OnnxGraph, types: Mapping[str, TensorType], layers: Mapping[str, Iterable[str]]
) -> dict[str, Work]:
    """Return the work of each layer.

    A node that no layer names was fused into one, or computed when the graph was loaded:

    - A DequantizeLinear, a convolution and whatever depends on weights alone belong to the layers that read
      their results.
    - Any other node belongs to the layer that produces the last of its inputs.

    Args:
        graph: The graph.
        types: Types of all activations, as `infer_tensor_types` returns them.
        layers: Names of the nodes of each layer, by the layer's name. Other names are ignored.

    Raises:
        InputError: The type of a tensor is missing.
    """
    tensors = (name for node in graph.nodes for name in (*node.inputs, *node.outputs) if name)
    if missing := next((name for name in tensors if name not in types and name not in graph.weights), None):
        raise InputError(f"the shape of {missing} is unknown; expected a graph without branches and loops")
    return _LayerNodes(graph, layers).count(types)


def find_layers(graph: OnnxGraph) -> dict[str, list[str]]:
    """Return the nodes of each layer of the graph, without an engine that would say what it fuses.

    A convolution, or another operator with multiply-accumulates, and the activation after it are one layer.
    An operator whose inputs come from DQ nodes is an integer layer with these nodes, and with a Q node after
    it. Operators without multiply-accumulates are integer layers only with both.
    """
    producers = {output: node for node in graph.nodes for output in node.outputs}
    consumers, constant = _find_consumers(graph), _find_constants(graph)
    layers: dict[str, list[str]] = {}
    fused: set[str] = set()
    changes = []
    for node in graph.nodes:
        if node.name in fused or constant.issuperset(node.outputs):
            continue
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            changes.append(node)
            continue
        members = [node.name]
        last = node
        activation = _only(consumers.get(node.outputs[0], []))
        if node.op in COUNTED_OPERATORS and activation is not None and activation.op in ACTIVATIONS:
            members.append(activation.name)
            last = activation
        # A convolution in float has its weights without a DQ node. Its bias may have one, or none.
        operands = node.inputs[:2] if node.op in COUNTED_OPERATORS else node.inputs
        sources = [producers.get(name) for name in operands if name]
        dequantizers = [n.name for n in sources if n is not None and n.op == "DequantizeLinear"]
        quantizer = _only(consumers.get(last.outputs[0], []))
        if quantizer is None or quantizer.op != "QuantizeLinear":
            quantizer = None
        if sources and len(dequantizers) == len(sources) and (quantizer or node.op in COUNTED_OPERATORS):
            members += dequantizers + ([quantizer.name] if quantizer else [])
        layers[node.name] = members
        fused.update(members)
    for node in changes:
        readers = [layers.get(n.name, [n.name]) for output in node.outputs for n in consumers.get(output, [])]
        if node.name not in fused or any(node.name not in members for members in readers):
            layers[node.name] = [node.name]
    return layers


def _find_constants(graph: OnnxGraph) -> set[str]:
    """Return the names of the tensors that depend on weights alone."""
    constant = set(graph.weights)
    for node in graph.nodes:
        if node.inputs and all(name in constant or not name for name in node.inputs):
            constant.update(node.outputs)
    return constant


def _find_consumers(graph: OnnxGraph) -> dict[str, list[OnnxNode]]:
    consumers: dict[str, list[OnnxNode]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(filter(None, node.inputs)):
            consumers.setdefault(name, []).append(node)
    return consumers


def _only(nodes: Sequence[OnnxNode]) -> OnnxNode | None:
    return nodes[0] if len(nodes) == 1 else None


class _LayerNodes:
    """Nodes of each layer, with the nodes that the engine fused into it."""

    def __init__(self, graph: OnnxGraph, layers: Mapping[str, Iterable[str]]) -> None:
        self._graph = graph
        self._consumers = _find_consumers(graph)
        self._layers_of: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
        self._producers = {output: node for node in graph.nodes for output in node.outputs}
        self._order = {node.name: index for index, node in enumerate(graph.nodes)}
        self._names = list(layers)
        self._constant = _find_constants(graph)
        for layer, members in layers.items():
            for name in members:
                if name in self._layers_of:
                    self._layers_of[name].add(layer)
        for node in reversed(graph.nodes):
            if node.op in COUNTED_OPERATORS or node.op == "DequantizeLinear" or self._is_constant(node):
                self._join_consumers(node)
        for node in graph.nodes:
            self._join_producer(node)
        for node in reversed(graph.nodes):
            self._join_consumers(node)

    def _is_constant(self, node: OnnxNode) -> bool:
        return self._constant.issuperset(node.outputs)

    def _join_consumers(self, node: OnnxNode) -> None:
        layers = self._layers_of[node.name]
        if not layers:
            for output in node.outputs:
                for consumer in self._consumers.get(output, []):
                    layers |= self._layers_of[consumer.name]
                    if layers and node.op in COUNTED_OPERATORS:
                        return  # it is computed once

    def _join_producer(self, node: OnnxNode) -> None:
        layers = self._layers_of[node.name]
        if not layers and not self._is_constant(node):
            producers = [self._producers[name] for name in node.inputs if name in self._producers]
            owned = [n for n in producers if self._layers_of[n.name] and not self._is_constant(n)]
            if owned:
                layers |= self._layers_of[max(owned, key=lambda n: self._order[n.name]).name]

    def count(self, types: Mapping[str, TensorType]) -> dict[str, Work]:
        """Return the work of each layer."""
        members: dict[str, list[OnnxNode]] = {name: [] for name in self._names}
        for node in self._graph.nodes:
            for layer in self._layers_of[node.name]:
                members[layer].append(node)
        all_types = {**self._graph.weights, **types}
        return {layer: self._count_layer(layer, nodes, all_types) for layer, nodes in members.items()}

    def _count_layer(self, layer: str, nodes: Sequence[OnnxNode], types: Mapping[str, TensorType]) -> Work:
        if all(node.op in VIEWS for node in nodes):
            return Work()
        produced = {output for node in nodes for output in node.outputs if output}
        read = dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in produced)
        written = [name for name in produced if self._is_written(name, layer)]
        activations = sum(types[name].nbytes for name in read if name not in self._constant)
        written_bytes = sum(types[name].nbytes for name in written)
        if len(nodes) == 1 and nodes[0].op in SELECTIONS:
            activations = min(activations, written_bytes)
        return Work(
            macs=sum(
                count_macs(
                    node.op,
                    [types[name].shape if name else () for name in node.inputs],
                    types[node.outputs[0]].shape if node.outputs[0] else (),
                )
                for node in nodes
            ),
            weight_bytes=sum(types[name].nbytes for name in read if name in self._constant),
            read_bytes=activations,
            written_bytes=written_bytes,
        )

    def _is_written(self, tensor: str, layer: str) -> bool:
        """Return whether another layer reads a tensor and does not compute it itself."""
        if tensor in self._constant:
            return False
        own = self._layers_of[self._producers[tensor].name]
        return tensor in self._graph.outputs or any(
            self._layers_of[consumer.name] - own for consumer in self._consumers.get(tensor, [])
        )
