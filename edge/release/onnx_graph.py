"""Nodes, weights and tensor types of an ONNX file, read without the onnx package, which drones do not have.

The field numbers are those of onnx.proto: ModelProto.graph (7); GraphProto.node (1), initializer (5), input
(11), output (12); NodeProto.input (1), output (2), name (3), op_type (4), attribute (5); AttributeProto.i
(3), t (5); TensorProto.dims (1), data_type (2), name (8); ValueInfoProto.name (1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge.core.protobuf_wire import iter_fields, iter_varints

ELEMENT_TYPES = {
    1: ("float", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    4: ("uint16", 2),
    5: ("int16", 2),
    6: ("int32", 4),
    7: ("int64", 8),
    9: ("bool", 1),
    10: ("float16", 2),
    11: ("double", 8),
    12: ("uint32", 4),
    13: ("uint64", 8),
    16: ("bfloat16", 2),
}
"""Name (as ONNX Runtime writes it) and bytes of each element type of TensorProto.DataType of whole bytes."""
ELEMENT_BYTES = dict(ELEMENT_TYPES.values())

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a tensor."""

    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tensor; an element type that is not known counts as one byte."""
        return math.prod(self.shape) * ELEMENT_BYTES.get(self.dtype, 1)


@dataclass(frozen=True)
class OnnxNode:
    """A node.

    Attributes:
        name: Its name; a node without one has that of its first output that is not left out.
        op: Operator.
        inputs: Names of its inputs; "" for an optional one that is left out.
        outputs: Names of its outputs; "" for an optional one that is left out.
        cast_to: Element type that a Cast converts to; "" for other operators.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cast_to: str = ""


@dataclass(frozen=True)
class OnnxGraph:
    """Main graph of a file. Graphs inside nodes, such as the branches of If, are not read.

    Attributes:
        nodes: Nodes in the order of the file, without Constant nodes.
        weights: Types of the initializers and of the values of Constant nodes, by name.
        inputs: Names of the inputs, without initializers.
        outputs: Names of the outputs.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    weights: dict[str, TensorType] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_onnx_graph(path: Path) -> OnnxGraph:
    """Read the main graph of an ONNX file.

    Raises:
        ValueError, IndexError: The file is not a protobuf message.
    """
    graph = OnnxGraph()
    for message in _messages(memoryview(path.read_bytes()), 7):
        for tensor in _messages(message, 5):
            name, tensor_type = _read_tensor(tensor)
            graph.weights[name] = tensor_type
        for node in _messages(message, 1):
            _add_node(node, graph)
        for number, names in ((11, graph.inputs), (12, graph.outputs)):
            names += [_text(value, 1) for value in _messages(message, number)]
    graph.inputs[:] = [name for name in graph.inputs if name not in graph.weights]
    return graph


def _add_node(message: memoryview, graph: OnnxGraph) -> None:
    inputs, outputs = ([_decode(text) for text in _messages(message, number)] for number in (1, 2))
    op = _text(message, 4)
    if op == "Constant":
        for attribute in _messages(message, 5):
            for tensor in _messages(attribute, 5):
                graph.weights[outputs[0]] = _read_tensor(tensor)[1]
        # Constants without a tensor, such as value_int, are scalars or short lists.
        graph.weights.setdefault(outputs[0], TensorType("int64", ()))
    else:
        name = _text(message, 3) or next(filter(None, outputs), "")
        cast_to = _read_cast_type(message) if op == "Cast" else ""
        graph.nodes.append(OnnxNode(name, op, tuple(inputs), tuple(outputs), cast_to))


def _read_cast_type(message: memoryview) -> str:
    for attribute in _messages(message, 5):
        for number, value in iter_fields(attribute):
            if number == 3 and isinstance(value, int) and _text(attribute, 1) == "to":
                return _element_type(value)
    return ""


def _element_type(number: int) -> str:
    return ELEMENT_TYPES.get(number, (str(number), 1))[0]


def _read_tensor(message: memoryview) -> tuple[str, TensorType]:
    dims: list[int] = []
    dtype = ""
    for number, value in iter_fields(message):
        if number == 1:  # packed or not, as the writer likes
            dims += [value] if isinstance(value, int) else iter_varints(value)
        elif number == 2 and isinstance(value, int):
            dtype = _element_type(value)
    return _text(message, 8), TensorType(dtype, tuple(dims))


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the values of a field that are messages, texts or bytes."""
    for number, value in iter_fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _text(message: memoryview, wanted: int) -> str:
    """Return the last text of a field, or "" if it has none."""
    texts = [_decode(value) for value in _messages(message, wanted)]
    return texts[-1] if texts else ""


def _decode(data: memoryview) -> str:
    return bytes(data).decode(errors="replace")
