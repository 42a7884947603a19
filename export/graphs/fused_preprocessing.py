"""Fusion of preprocessing into a graph: it takes raw uint8 frames, and resizes and scales them itself.

An area resize is linear and separable: two multiplications by constant matrices, rows first. The matrix of
the reference (`edge.preprocessing.transform`: halvings, then an area resize) is block diagonal with equal
blocks, as many as the greatest common divisor of both sizes. Multiplying by one block on reshaped data
saves most of the work: 1280x720 to 64x64 takes 8 multiply-accumulates per value for the rows, the whole
matrix would take 64.

The result is rounded to whole grey levels like the reference. It is equal except for ties, and within one
level where the reference halves. All of it is float32, whatever the precision of the graph behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import Preprocessing

# BT.601 with Y in 16 to 235 and U, V in 16 to 240: what cv2.COLOR_YUV2BGR_NV12 computes.
YUV_TO_RGB = np.array([[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]], np.float32)
YUV_OFFSET = np.array([16, 128, 128], np.float32)
HALVING_BIAS = 0.125
"""Mean error of the reference in grey levels per halving: it rounds quarters, and rounds halves up."""
Matrix = NDArray[np.float32]
RepeatedBlock = tuple[int, Matrix]
"""A block diagonal matrix of equal blocks: how often the block repeats, and the block."""


def area_weights(size: int, target: int, halvings: int = 0) -> NDArray[np.float64]:
    """Return the weights (target, size) of an area resize of a line.

    Each output is the mean of the inputs that it covers; the inputs at its ends count by the part covered.

    Args:
        size: Number of inputs.
        target: Number of outputs.
        halvings: Means of two that are taken first.
    """
    if halvings:
        return np.repeat(area_weights(size // 2, target, halvings - 1), 2, axis=1) / 2
    edges = np.linspace(0, size, target + 1)
    cells = np.arange(size)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.maximum(covered, 0) * target / size)


def _resize_block(size: int, target: int, halvings: int, pixels_per_value: int = 1) -> RepeatedBlock:
    """Return the matrix of an area resize as a repeated block.

    Args:
        size: Number of pixels.
        target: Number of outputs.
        halvings: Means of two that are taken first.
        pixels_per_value: Neighbouring pixels that share a value: 2 for the colours of NV12.
    """
    repeats = math.gcd(size >> halvings, target, size // pixels_per_value)
    weights = area_weights(size, target, halvings)
    if pixels_per_value > 1:
        weights = weights.reshape(target, -1, pixels_per_value).sum(2)
    rows, columns = target // repeats, weights.shape[1] // repeats
    return repeats, weights[:rows, :columns].astype(np.float32)


class _NodeBuilder:
    """Builder of nodes and constants whose names share a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: Matrix | NDArray[np.int64], name: str) -> str:
        full_name = f"{self._prefix}_{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, full_name))
        return full_name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._prefix}_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(np.array(shape, np.int64), "shape"))

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        ends = [self.constant(np.array([value], np.int64), "at") for value in (start, end, axis)]
        return self.add("Slice", x, *ends)

    def resize(self, x: str, rows: RepeatedBlock, columns: RepeatedBlock, channels: int) -> str:
        """Resize (1, H, W, channels) to (channels, h, w)."""
        (row_repeats, row_block), (column_repeats, column_block) = rows, columns
        target_height = row_repeats * row_block.shape[0]
        width = column_repeats * column_block.shape[1]
        x = self.reshape(x, row_repeats, row_block.shape[1], width * channels)
        x = self.add("MatMul", self.constant(row_block[None], "rows"), x)
        x = self.reshape(x, target_height, width, channels)
        x = self.add("Transpose", x, perm=[2, 0, 1])
        x = self.reshape(x, channels * target_height * column_repeats, column_block.shape[1])
        x = self.add("MatMul", x, self.constant(np.ascontiguousarray(column_block.T), "columns"))
        return self.reshape(x, channels, target_height, column_repeats * column_block.shape[0])


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
        value = next(i for i in graph.input if i.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, raw.shape))
        builder = _NodeBuilder(f"{name}_raw")
        prepared = _add_preprocessing(builder, name, preprocessing, raw)
        for node in graph.node:
            for index, input_name in enumerate(node.input):
                if input_name == name:
                    node.input[index] = prepared
        nodes = [*builder.nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(builder.constants)
    onnx.checker.check_model(fused, full_check=True)
    return fused


def _add_preprocessing(
    builder: _NodeBuilder, name: str, preprocessing: Preprocessing, raw: RawFrameSpec
) -> str:
    """Add the nodes from a raw frame to the prepared input, and return the name of the latter."""
    size, target = (raw.height, raw.width), (preprocessing.height, preprocessing.width)
    halvings = preprocessing.count_halvings(raw.width, raw.height)
    x = builder.add("Cast", name, to=TensorProto.FLOAT)
    if raw.format == "bgr":
        rows, columns = (_resize_block(s, t, halvings) for s, t in zip(size, target, strict=True))
        x = builder.resize(x, rows, columns, 3)
        x = builder.add("Gather", x, builder.constant(np.array([2, 1, 0], np.int64), "rgb"), axis=0)
    else:
        x = _add_nv12_to_rgb(builder, x, size, target, halvings)
    if halvings:
        bias = np.array(HALVING_BIAS * halvings, np.float32)
        x = builder.add("Add", x, builder.constant(bias, "bias"))
    x = builder.add("Round", x)  # the reference resizes uint8 images
    x = builder.add("Mul", x, builder.constant(np.array(preprocessing.scale, np.float32), "scale"))
    x = builder.add("Add", x, builder.constant(np.array(preprocessing.offset, np.float32), "offset"))
    return builder.reshape(x, 1, 3, *target)


def _add_nv12_to_rgb(
    builder: _NodeBuilder, x: str, size: tuple[int, int], target: tuple[int, int], halvings: int
) -> str:
    """Add the nodes from NV12 to RGB (3, h, w), not rounded.

    The planes are resized first, because the conversion is linear and the small planes are cheaper.
    """
    height = size[0]
    planes = []
    for channels, pixels, start, end in ((1, 1, 0, height), (2, 2, height, height * 3 // 2)):
        rows, columns = (_resize_block(s, t, halvings, pixels) for s, t in zip(size, target, strict=True))
        planes.append(builder.resize(builder.slice(x, start, end, 1), rows, columns, channels))
    x = builder.reshape(builder.add("Concat", *planes, axis=0), 3, target[0] * target[1])
    x = builder.add("Sub", x, builder.constant(YUV_OFFSET[:, None], "zero"))
    x = builder.add("MatMul", builder.constant(YUV_TO_RGB, "to_rgb"), x)
    limits = [builder.constant(np.array(value, np.float32), "end") for value in (0, 255)]
    return builder.reshape(builder.add("Clip", x, *limits), 3, *target)
