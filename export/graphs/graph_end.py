"""The end of a graph: the nodes that make the map."""

from __future__ import annotations

import onnx
from onnx import NodeProto

TYPELESS = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that move values and do not compute with them: for whole numbers the type does not matter."""
SQUASHING = {"Sigmoid", "Softmax", "LogSoftmax"}
PASSING = TYPELESS | {"Cast", "Resize", "Relu", "Exp", "Softmax", "LogSoftmax"}
"""Operators that a map may pass after the function that made it."""


def map_making_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes from the last Softmax or Sigmoid of a graph to its outputs.

    They have to stay in float32. The values of a density over a map are about one by its number of pixels,
    1e-5, where float16 has steps of 6e-8. Near 0.5, where a Sigmoid is steepest, the steps are 5e-4.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for output in model.graph.output:
        path = last_nodes(output.name, producers)
        squashing = [at for at, node in enumerate(path) if node.op_type in SQUASHING]
        if squashing:
            nodes += [node.name for node in path[: squashing[-1] + 1]]
    return nodes


def last_nodes(output: str, producers: dict[str, NodeProto]) -> list[NodeProto]:
    """Return the nodes before an output, last first, up to the first one that is not in `PASSING`."""
    path: list[NodeProto] = []
    node = producers.get(output)
    while node is not None and node.op_type in PASSING:
        path.append(node)
        node = producers.get(node.input[0])
    return path + ([node] if node is not None else [])
