"""Adapter around a network from elsewhere: the graph takes and gives what the graphs of a student do.

A release feeds frames as `Preprocessing` makes them, RGB (1, 3, H, W) or (1, 3, T, H, W), and reads a map
(1, 1, h, w). What a network wants beyond that (BGR, grey, a mean per channel, another order of axes) and what
its output lacks (an activation, a size) become a few nodes. So nothing on board depends on the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge.core.errors import InputError
from edge.release.release import StateSpec
from export.graphs.fused_preprocessing import prepend, replace_input
from export.graphs.graph_end import TYPELESS
from export.graphs.node_builder import NodeBuilder, find_free_name
from export.graphs.onnx_export import SALIENCY
from export.networks.network_format import GREY_WEIGHTS, NetworkInput, NetworkOutput

FRAME = "frame"


def adapt_network(
    model: onnx.ModelProto, source: NetworkInput, target: NetworkOutput, states: Sequence[StateSpec] = ()
) -> onnx.ModelProto:
    """Return the graph with the inputs and outputs of a student's graph.

    Args:
        model: The network, in opset 20 and without float16.
        source: How the network takes frames.
        target: How it gives its map.
        states: Its recurrent states.

    Raises:
        InputError: The network computes with uint8.
    """
    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    graph = adapted.graph
    del graph.value_info[:]  # its shapes are those before the size was set
    if source.dtype == "uint8":
        _release_from_uint8(graph, source.name)
    names = {name: find_free_name(graph, f"network_{name}") for name in (FRAME, SALIENCY)}
    _rename(graph, names)
    _adapt_input(graph, replace(source, name=names.get(source.name, source.name)))
    _adapt_output(graph, replace(target, name=names.get(target.name, target.name)))
    window = (source.frames,) if source.frames > 1 else ()
    inputs: dict[str, tuple[int, ...]] = {FRAME: (1, 3, *window, source.height, source.width)}
    inputs |= {state.input: state.shape for state in states}
    outputs: dict[str, tuple[int, ...]] = {SALIENCY: (1, 1, target.map_height, target.map_width)}
    outputs |= {state.output: state.shape for state in states}
    for values, shapes in ((graph.input, inputs), (graph.output, outputs)):
        del values[:]
        values.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
        )
    return adapted


def _adapt_input(graph: onnx.GraphProto, source: NetworkInput) -> None:
    """Add the nodes from the frame to the network's input."""
    builder = NodeBuilder(find_free_name(graph, FRAME))
    ones = (1, 1) if source.frames == 1 else (1, 1, 1)
    x = FRAME
    if source.channels == 1:
        weights = builder.constant(np.array(GREY_WEIGHTS, np.float32).reshape(1, 3, *ones), "grey")
        axis = builder.constant(np.array([1], np.int64), "channel")
        x = builder.add("ReduceSum", builder.add("Mul", x, weights), axis, keepdims=1)
        if source.dtype == "uint8":
            half = builder.constant(np.array(0.5, np.float32), "half")
            x = builder.add("Floor", builder.add("Add", x, half))
    elif source.colour == "bgr":
        x = builder.add("Gather", x, builder.constant(np.array([2, 1, 0], np.int64), "bgr"), axis=1)
    if not source.has_uniform_values:  # the frame is v / 255
        scale = 255 * np.array(source.scale, np.float32).reshape(1, -1, *ones)
        offset = np.array(source.offset, np.float32).reshape(1, -1, *ones)
        x = builder.add("Mul", x, builder.constant(scale, "scale"))
        x = builder.add("Add", x, builder.constant(offset, "offset"))
    axes = "nchw" if source.frames == 1 else "ncthw"
    stacked = source.layout == "nchw" and source.frames > 1
    wanted = "ntchw" if stacked else source.layout
    if source.frames == 1 and "t" in wanted:
        x, axes = builder.add("Unsqueeze", x, builder.constant(np.array([2], np.int64), "time")), "ncthw"
    if wanted != axes:
        x = builder.add("Transpose", x, perm=[axes.index(axis) for axis in wanted])
    if stacked:
        x = builder.reshape(x, *source.shape)
    replace_input(graph, source.name, x)
    prepend(graph, builder)


def _adapt_output(graph: onnx.GraphProto, target: NetworkOutput) -> None:
    """Add the nodes from the network's output to the map."""
    builder = NodeBuilder(find_free_name(graph, SALIENCY))
    shape = (1, 1, target.height, target.width)
    name = target.name
    if target.axis is not None:
        index = builder.constant(np.array(target.index, np.int64), "index")
        name = builder.add("Gather", name, index, axis=target.axis)
    if target.activation in ("softmax", "logsoftmax"):
        # exp of a normalized logarithm is its softmax, which is also right where it is not quite normalized.
        x = builder.reshape(name, 1, target.height * target.width)
        x = builder.reshape(builder.add("Softmax", x, axis=-1), *shape)
    else:
        x = builder.reshape(name, *shape)
        if target.activation == "sigmoid":
            x = builder.add("Sigmoid", x)
    if target.is_resized:
        size = np.array([1, 1, target.map_height, target.map_width], np.int64)
        x = builder.add("Resize", x, "", "", builder.constant(size, "size"), mode="linear")
    if target.activation == "none":
        x = builder.add("Relu", x)  # a map is not negative
    builder.nodes[-1].output[0] = SALIENCY
    graph.node.extend(builder.nodes)
    graph.initializer.extend(builder.constants)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors in all places."""
    for tensor in (*graph.initializer, *graph.input, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]


def _release_from_uint8(graph: onnx.GraphProto, name: str) -> None:
    """Let an input of whole numbers be float32: its Casts to a float type have nothing to do then.

    TensorRT knows uint8 only as the type of an input.

    Raises:
        InputError: A node computes with uint8, or casts it to another integer type.
    """
    reached = {name}
    for node in graph.node:
        if not reached & set(node.input):
            continue
        if node.op_type == "Cast":
            to = next(a for a in node.attribute if a.name == "to")
            if to.i in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
                continue
        elif node.op_type in TYPELESS:
            reached |= set(node.output)
            continue
        raise InputError(
            f"node {node.name or node.output[0]} is a {node.op_type} of uint8, which does not fly; expected "
            "a Cast to float32 first: cast the input at the start of the graph"
        )
