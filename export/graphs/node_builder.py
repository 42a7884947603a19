"""Builder of ONNX nodes, with area resizes as multiplications by constant matrices.

An area resize is linear and separable: two multiplications by constant matrices, rows first. The matrix of
the reference (`edge.preprocessing.transform`: halvings, then an area resize) is block diagonal with equal
blocks, as many as the greatest common divisor of both sizes. Multiplying by one block on reshaped data
saves most of the work: 1280x720 to 64x64 takes 8 multiply-accumulates per value for the rows, the whole
matrix would take 64.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.quantization.free_names import used_names

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


def resize_block(size: int, target: int, halvings: int, pixels_per_value: int = 1) -> RepeatedBlock:
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


def find_free_name(graph: GraphProto, wanted: str) -> str:
    """Return a name that a graph does not use: the wanted one, or with a number behind it.

    No name in the graph starts with it and "_" either, so it is free as the prefix of a `NodeBuilder`.
    """
    used = used_names(graph)
    candidates = (f"{wanted}{number or ''}" for number in itertools.count())
    return next(
        name for name in candidates if name not in used and not any(n.startswith(f"{name}_") for n in used)
    )


class NodeBuilder:
    """Builder of nodes and constants whose names share a prefix.

    Attributes:
        nodes: The nodes, in order of execution.
        constants: The constants.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: Matrix | NDArray[np.int64], name: str) -> str:
        """Add a constant and return its name, which ends with a number."""
        full_name = f"{self._prefix}_{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, full_name))
        return full_name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the name of the output."""
        name = f"{self._prefix}_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """Add a Reshape."""
        return self.add("Reshape", x, self.constant(np.array(shape, np.int64), "shape"))

    def slice(self, x: str, start: int, end: int, axis: int) -> str:
        """Add a Slice along one axis."""
        ends = [self.constant(np.array([value], np.int64), "at") for value in (start, end, axis)]
        return self.add("Slice", x, *ends)

    def resize_planes(self, x: str, rows: RepeatedBlock, columns: RepeatedBlock, planes: int) -> str:
        """Resize (..., H, W) with a number of planes in all to (planes, h, w)."""
        (row_repeats, row_block), (column_repeats, column_block) = rows, columns
        target_height = row_repeats * row_block.shape[0]
        width = column_repeats * column_block.shape[1]
        x = self.reshape(x, planes * row_repeats, row_block.shape[1], width)
        x = self.add("MatMul", self.constant(row_block[None], "rows"), x)
        x = self.reshape(x, planes * target_height * column_repeats, column_block.shape[1])
        x = self.add("MatMul", x, self.constant(np.ascontiguousarray(column_block.T), "columns"))
        return self.reshape(x, planes, target_height, column_repeats * column_block.shape[0])

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
