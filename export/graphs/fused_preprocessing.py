"""Preprocessing inside the graph: a raw uint8 frame in, resized by area, scaled and transposed there.

An area resize is linear and separable: two multiplications by fixed weights, rows first. The weights of
the reference (edge.preprocessing.transform: halved as often as it says, then by area) repeat along the
diagonal as
often as both sizes share a factor, so each multiplication is by one small block: 1280x720 to 64x64 takes
8 multiply-accumulates a value for the rows, where the whole matrix would take 64. The result is rounded
to whole grey levels as the reference rounds: equal to it but for ties, and where it halves within one
level. All of it is float32, whatever the precision of the graph behind.
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

# BT.601 with Y in 16 to 235, U and V in 16 to 240, as cv2.COLOR_YUV2BGR_NV12 computes it.
YUV_TO_RGB = np.array([[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]], np.float32)
YUV_OFFSET = np.array([16, 128, 128], np.float32)
HALVING_BIAS = 0.125
"""Grey levels that the reference adds in a halving, on average: it rounds quarters, and half a level up."""
Matrix = NDArray[np.float32]


def area_weights(size: int, target: int, halvings: int = 0) -> NDArray[np.float64]:
    """Return the weights (target, size) of an area resize of a line: each output is the mean of the inputs
    that it covers, those at its ends by the part covered. `halvings` by means of two come first.
    """
    if halvings:
        return np.repeat(area_weights(size // 2, target, halvings - 1), 2, axis=1) / 2
    edges = np.linspace(0, size, target + 1)
    cells = np.arange(size)
    covered = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.maximum(covered, 0) * target / size)


def _block(size: int, target: int, halvings: int, each: int = 1) -> tuple[int, Matrix]:
    """Return how often the weights' block repeats along the diagonal, and the block. `each`: neighbours
    that are one value in the plane (a colour of NV12 stands for two pixels).
    """
    times = math.gcd(size >> halvings, target, size // each)
    weights = area_weights(size, target, halvings)
    if each > 1:
        weights = weights.reshape(target, -1, each).sum(2)
    rows, columns = target // times, weights.shape[1] // times
    return times, weights[:rows, :columns].astype(np.float32)


class _Graph:
    """Nodes and constants under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: Matrix | NDArray[np.int64], what: str) -> str:
        name = f"{self._prefix}_{what}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._prefix}_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def shaped(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(np.array(shape, np.int64), "shape"))

    def sliced(self, x: str, start: int, end: int, axis: int) -> str:
        ends = [self.constant(np.array([v], np.int64), "at") for v in (start, end, axis)]
        return self.add("Slice", x, *ends)

    def resized(self, x: str, rows: tuple[int, Matrix], columns: tuple[int, Matrix], channels: int) -> str:
        """Resize (1, H, W, channels) to (channels, h, w)."""
        (times, block), (across, along) = rows, columns
        height, width = times * block.shape[0], across * along.shape[1]  # already, and not yet
        x = self.shaped(x, times, block.shape[1], width * channels)
        x = self.add("MatMul", self.constant(block[None], "rows"), x)
        x = self.shaped(x, height, width, channels)
        x = self.add("Transpose", x, perm=[2, 0, 1])
        x = self.shaped(x, channels * height * across, along.shape[1])
        x = self.add("MatMul", x, self.constant(np.ascontiguousarray(along.T), "columns"))
        return self.shaped(x, channels, height, across * along.shape[0])


def fuse_preprocessing(
    model: onnx.ModelProto, inputs: Sequence[str], preprocessing: Preprocessing, raw: RawFrameSpec
) -> onnx.ModelProto:
    """Return the graph with its inputs (1, 3, h, w) float32 replaced by raw frames of the same names.

    Any precision: what was there is not changed, so ranges of the graph without it hold.
    """
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    for name in inputs:
        value = next(i for i in graph.input if i.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, raw.shape))
        prefix = _Graph(f"{name}_raw")
        prepared = _prepared(prefix, name, preprocessing, raw)
        for node in graph.node:
            for index, given in enumerate(node.input):
                if given == name:
                    node.input[index] = prepared
        nodes = [*prefix.nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(prefix.constants)
    onnx.checker.check_model(fused, full_check=True)
    return fused


def _prepared(graph: _Graph, name: str, preprocessing: Preprocessing, raw: RawFrameSpec) -> str:
    size, target = (raw.height, raw.width), (preprocessing.height, preprocessing.width)
    halvings = preprocessing.halvings(raw.width, raw.height)
    x = graph.add("Cast", name, to=TensorProto.FLOAT)
    if raw.format == "bgr":
        rows, columns = (_block(s, t, halvings) for s, t in zip(size, target, strict=True))
        x = graph.resized(x, rows, columns, 3)
        x = graph.add("Gather", x, graph.constant(np.array([2, 1, 0], np.int64), "rgb"), axis=0)
    else:
        x = _from_nv12(graph, x, size, target, halvings)
    if halvings:
        bias = np.array(HALVING_BIAS * halvings, np.float32)
        x = graph.add("Add", x, graph.constant(bias, "bias"))
    x = graph.add("Round", x)
    x = graph.add("Mul", x, graph.constant(np.array(preprocessing.scale, np.float32), "scale"))
    x = graph.add("Add", x, graph.constant(np.array(preprocessing.offset, np.float32), "offset"))
    return graph.shaped(x, 1, 3, *target)


def _from_nv12(graph: _Graph, x: str, size: tuple[int, int], target: tuple[int, int], halvings: int) -> str:
    """Return RGB (3, h, w), not rounded: the planes are resized, then turned to RGB, which is linear, too."""
    height = size[0]
    planes = []
    for channels, each, start, end in ((1, 1, 0, height), (2, 2, height, height * 3 // 2)):
        rows, columns = (_block(s, t, halvings, each) for s, t in zip(size, target, strict=True))
        planes.append(graph.resized(graph.sliced(x, start, end, 1), rows, columns, channels))
    x = graph.shaped(graph.add("Concat", *planes, axis=0), 3, target[0] * target[1])
    x = graph.add("Sub", x, graph.constant(YUV_OFFSET[:, None], "zero"))
    x = graph.add("MatMul", graph.constant(YUV_TO_RGB, "to_rgb"), x)
    ends = [graph.constant(np.array(v, np.float32), "end") for v in (0, 255)]
    return graph.shaped(graph.add("Clip", x, *ends), 3, *target)
