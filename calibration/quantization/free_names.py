"""Names for new tensors and nodes that a graph does not use yet."""

from __future__ import annotations

import itertools

from onnx import GraphProto


class FreeNames:
    """Gives names that neither a tensor nor a node of a graph has.

    Args:
        graph: The graph. Its names are read once.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._used = used_names(graph)

    def __call__(self, wanted: str) -> str:
        """Return a free name, which is used from now on: the wanted one, or with a number behind it."""
        candidates = (f"{wanted}{number or ''}" for number in itertools.count())
        name = next(name for name in candidates if name not in self._used)
        self._used.add(name)
        return name


def used_names(graph: GraphProto) -> set[str]:
    """Return the names of all tensors and nodes of a graph, also of tensors that only have a stored shape."""
    tensors = (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
    names = {tensor.name for tensor in tensors}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
    return names
