"""Fusion of preprocessing into a graph: it takes raw uint8 frames, and resizes and scales them itself.

The result is rounded to whole grey levels like the reference. It is equal except for ties, and within one
level where the reference halves. All of it is float32, whatever the precision of the graph behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import Preprocessing
from export.graphs.node_builder import NodeBuilder, find_free_name, resize_block

# BT.601 with Y in 16 to 235 and U, V in 16 to 240: what cv2.COLOR_YUV2BGR_NV12 computes.
YUV_TO_RGB = np.array([[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]], np.float32)
YUV_OFFSET = np.array([16, 128, 128], np.float32)
HALVING_BIAS = 0.125
"""Mean error of the reference in grey levels per halving: it rounds quarters, and rounds halves up."""


def fuse_preprocessing(
    model: onnx.ModelProto, inputs: Sequence[str], preprocessing: Preprocessing, raw: RawFrameSpec
) -> onnx.ModelProto:
    """Return the graph with raw frames as inputs.

    The nodes of the graph are not changed, so ranges that were found without preprocessing stay valid.

    Args:
        model: Graph of any precision.
        inputs: Inputs (1, 3, h, w) float32 that become raw frames of the same names.
        preprocessing: Preprocessing of the student.
        raw: Size and format of the raw frames.
    """
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    for name in inputs:
        builder = NodeBuilder(find_free_name(graph, f"{name}_raw"))
        resized = add_resize(builder, name, preprocessing, raw)
        prepared = add_scaling(builder, resized, preprocessing)
        shape = (1, 3, preprocessing.height, preprocessing.width)
        replace_input(graph, name, builder.reshape(prepared, *shape))
        set_raw_input(graph, name, raw)
        prepend(graph, builder)
    onnx.checker.check_model(fused, full_check=True)
    return fused


def replace_input(graph: onnx.GraphProto, name: str, value: str) -> None:
    """Let the nodes of a graph read a value in place of an input."""
    for node in graph.node:
        for index, input_name in enumerate(node.input):
            if input_name == name:
                node.input[index] = value


def set_raw_input(graph: onnx.GraphProto, name: str, raw: RawFrameSpec) -> None:
    """Let an input of a graph be a raw frame."""
    value = next(i for i in graph.input if i.name == name)
    value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, raw.shape))


def prepend(graph: onnx.GraphProto, builder: NodeBuilder) -> None:
    """Put the nodes of a builder before those of a graph."""
    nodes = [*builder.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(builder.constants)


def add_resize(builder: NodeBuilder, name: str, preprocessing: Preprocessing, raw: RawFrameSpec) -> str:
    """Add the nodes from a raw frame to RGB (3, h, w) in whole grey levels, and return its name.

    The size is `Preprocessing.resized_shape`.
    """
    size, target = (raw.height, raw.width), preprocessing.resized_shape
    halvings = preprocessing.count_halvings(raw.width, raw.height)
    x = builder.add("Cast", name, to=TensorProto.FLOAT)
    if raw.format == "bgr":
        rows, columns = (resize_block(s, t, halvings) for s, t in zip(size, target, strict=True))
        x = builder.resize(x, rows, columns, 3)
        x = builder.add("Gather", x, builder.constant(np.array([2, 1, 0], np.int64), "rgb"), axis=0)
    else:
        x = _add_nv12_to_rgb(builder, x, size, target, halvings)
    if halvings:
        bias = np.array(HALVING_BIAS * halvings, np.float32)
        x = builder.add("Add", x, builder.constant(bias, "bias"))
    return builder.add("Round", x)  # the reference resizes uint8 images


def add_scaling(builder: NodeBuilder, x: str, preprocessing: Preprocessing) -> str:
    """Add the nodes from grey levels to the values of a student's input, and return their name."""
    x = builder.add("Mul", x, builder.constant(np.array(preprocessing.scale, np.float32), "scale"))
    return builder.add("Add", x, builder.constant(np.array(preprocessing.offset, np.float32), "offset"))


def _add_nv12_to_rgb(
    builder: NodeBuilder, x: str, size: tuple[int, int], target: tuple[int, int], halvings: int
) -> str:
    """Add the nodes from NV12 to RGB (3, h, w), not rounded.

    The planes are resized first, because the conversion is linear and the small planes are cheaper.
    """
    height = size[0]
    planes = []
    for channels, pixels, start, end in ((1, 1, 0, height), (2, 2, height, height * 3 // 2)):
        rows, columns = (resize_block(s, t, halvings, pixels) for s, t in zip(size, target, strict=True))
        planes.append(builder.resize(builder.slice(x, start, end, 1), rows, columns, channels))
    x = builder.reshape(builder.add("Concat", *planes, axis=0), 3, target[0] * target[1])
    x = builder.add("Sub", x, builder.constant(YUV_OFFSET[:, None], "zero"))
    x = builder.add("MatMul", builder.constant(YUV_TO_RGB, "to_rgb"), x)
    limits = [builder.constant(np.array(value, np.float32), "end") for value in (0, 255)]
    return builder.reshape(builder.add("Clip", x, *limits), 3, *target)
