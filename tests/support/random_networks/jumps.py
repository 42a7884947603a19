"""Operators whose output jumps: a value within rounding of the jump may come out on either side of it.

Two graphs that compute the same in other precisions differ by whole jumps there, and both are right. So the
output of each such operator is replaced by what one graph gives, in both; all the rest must then agree. The
operators themselves are compared by the share of elements that come out otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

JUMPING_OPERATORS = {
    "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod",
    "Not", "Round", "Sign", "ThresholdedRelu",
}  # fmt: skip
MAX_SHARE = 0.25
"""Greatest share of elements that may come out on another side. A wrong operator changes nearly all."""
_OWN, _FORCED = "own:", "forced:"

JumpValues = dict[str, NDArray[np.generic]]
"""Output of each jumping operator by the name of the tensor."""


def jumping_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the tensors that jump and that are computed from the frame."""
    return [name for node in model.graph.node for name in _jumping_outputs(node)]


def _jumping_outputs(node: NodeProto) -> Iterator[str]:
    if node.op_type in JUMPING_OPERATORS:
        yield from node.output
    elif node.op_type in ("MaxPool", "TopK") and len(node.output) > 1:
        yield node.output[1]  # the indices


def force_jumps(model: onnx.ModelProto, values: JumpValues) -> tuple[onnx.ModelProto, list[str]]:
    """Return a copy of a graph in which jumping operators give these values, whatever they compute.

    Returns:
        The graph, and the names of the tensors that hold what the operators compute themselves.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    nodes, own = list(graph.node), []
    for node in graph.node:
        for name in list(_jumping_outputs(node)):
            if name not in values:
                continue
            node.output[list(node.output).index(name)] = _OWN + name
            own.append(_OWN + name)
            graph.initializer.append(numpy_helper.from_array(values[name], _FORCED + name))
            kind = types.get(name) or helper.np_dtype_to_tensor_dtype(values[name].dtype)
            nodes.insert(0, helper.make_node("Cast", [_FORCED + name], [name], name=_FORCED + name, to=kind))
    del graph.node[:]
    graph.node.extend(nodes)
    return copy, own


def check_shares(own: JumpValues, values: JumpValues) -> None:
    """Check that few elements of each jumping operator come out on another side."""
    for name, computed in own.items():
        expected = values[name.removeprefix(_OWN)].astype(np.float64)
        scale = max(float(np.ptp(expected)), 1e-3)
        share = float((np.abs(computed.astype(np.float64) - expected) > 0.05 * scale).mean())
        assert share <= MAX_SHARE, f"{name.removeprefix(_OWN)} differs in {share:.0%} of its elements"
