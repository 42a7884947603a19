"""Fusion of preprocessing and alignment into the graph of an aligned student.

The graph takes the raw frame, and the homography that the host estimated on small grey images. It resizes
the frame, and keeps it as a state: the earlier frame that it warps is what it resized some frames before. So
no small frame passes through the CPU. As in the reference, both frames are resized from the size of the
alignment to that of the student, in whole grey levels. All of it is float32, and the state is uint8.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import Alignment, Preprocessing, count_halvings
from edge.release.release import StateSpec
from export.graphs.fused_preprocessing import (
    add_resize,
    add_scaling,
    prepend,
    replace_input,
    set_raw_input,
)
from export.graphs.node_builder import NodeBuilder, resize_block

HOMOGRAPHY = "homography"
"""Input (1, 3, 3), float32: from pixels of the resized frame to those of the earlier one."""
EARLIER_FRAME, RESIZED_FRAME = "earlier_frame", "resized_frame"
"""Input and output of the state."""


def resized_frame_state(alignment: Alignment) -> StateSpec:
    """Return the state that holds the resized frames (1, 3, height, width), RGB, until they are warped."""
    shape = (1, 3, alignment.height, alignment.width)
    return StateSpec(EARLIER_FRAME, RESIZED_FRAME, shape, 0.0, alignment.lag_s)


def fuse_aligned_preprocessing(
    model: onnx.ModelProto,
    inputs: tuple[str, str],
    preprocessing: Preprocessing,
    alignment: Alignment,
    raw: RawFrameSpec,
) -> onnx.ModelProto:
    """Return the graph with a raw frame, a homography and a state in place of two prepared frames.

    The nodes of the graph are not changed, so ranges that were found without preprocessing stay valid.

    Args:
        model: Graph of an aligned student, in any precision.
        inputs: Its inputs (1, 3, h, w), float32: the frame, which becomes the raw frame of the same name, and
            the earlier frame, which is removed.
        preprocessing: Preprocessing of the student.
        alignment: Its alignment.
        raw: Size and format of the raw frames.
    """
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    frame, earlier = inputs
    builder = NodeBuilder(f"{frame}_raw")
    shape = (1, 3, alignment.height, alignment.width)
    now = builder.reshape(add_resize(builder, frame, preprocessing, raw), *shape)
    both = builder.add("Concat", now, _add_warp(builder, now, alignment), axis=0)
    prepared = add_scaling(builder, _add_second_resize(builder, both, preprocessing), preprocessing)
    prepared = builder.reshape(prepared, 2, 3, preprocessing.height, preprocessing.width)
    for index, name in enumerate(inputs):
        replace_input(graph, name, builder.slice(prepared, index, index + 1, 0))
    builder.nodes.append(
        helper.make_node("Cast", [now], [RESIZED_FRAME], name=RESIZED_FRAME, to=TensorProto.UINT8)
    )
    set_raw_input(graph, frame, raw)
    kept = [value for value in graph.input if value.name != earlier]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.append(helper.make_tensor_value_info(HOMOGRAPHY, TensorProto.FLOAT, (1, 3, 3)))
    graph.input.append(helper.make_tensor_value_info(EARLIER_FRAME, TensorProto.UINT8, shape))
    graph.output.append(helper.make_tensor_value_info(RESIZED_FRAME, TensorProto.UINT8, shape))
    prepend(graph, builder)
    onnx.checker.check_model(fused, full_check=True)
    return fused


def _add_warp(builder: NodeBuilder, now: str, alignment: Alignment) -> str:
    """Add the warp of the earlier frame; pixels that it does not cover are those of `now` (1, 3, H, W)."""
    width, height = alignment.width, alignment.height
    # GridSample counts from -1 at the centre of the first pixel to 1 at the centre of the last one.
    to_grid = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]], np.float32)
    matrix = builder.add("MatMul", builder.constant(to_grid[None], "to_grid"), HOMOGRAPHY)
    by_x, by_y, constant = (
        builder.reshape(builder.slice(matrix, index, index + 1, 2), 3, 1, 1) for index in range(3)
    )
    x = builder.constant(np.arange(width, dtype=np.float32).reshape(1, 1, -1), "x")
    y = builder.constant(np.arange(height, dtype=np.float32).reshape(1, -1, 1), "y")
    row_part = builder.add("Add", builder.add("Mul", by_y, y), constant)
    position = builder.add("Add", builder.add("Mul", by_x, x), row_part)  # (3, H, W), homogeneous
    position = builder.add("Div", builder.slice(position, 0, 2, 0), builder.slice(position, 2, 3, 0))
    is_inside = builder.add(
        "LessOrEqual", builder.add("Abs", position), builder.constant(np.array(1, np.float32), "edge")
    )
    covered = builder.add("And", builder.slice(is_inside, 0, 1, 0), builder.slice(is_inside, 1, 2, 0))
    grid = builder.reshape(builder.add("Transpose", position, perm=[1, 2, 0]), 1, height, width, 2)
    earlier = builder.add("Cast", EARLIER_FRAME, to=TensorProto.FLOAT)
    warped = builder.add("GridSample", earlier, grid, mode="linear", padding_mode="border", align_corners=1)
    warped = builder.add("Round", warped)  # the reference warps uint8 images
    return builder.add("Where", builder.reshape(covered, 1, 1, height, width), warped, now)


def _add_second_resize(builder: NodeBuilder, frames: str, preprocessing: Preprocessing) -> str:
    """Add the resize of two frames (2, 3, H, W) to the student's size (6, h, w), in whole grey levels."""
    size, target = preprocessing.resized_shape, (preprocessing.height, preprocessing.width)
    if size == target:
        return builder.reshape(frames, 6, *target)
    halvings = count_halvings(size[1], size[0], target)
    rows, columns = (resize_block(s, t, halvings) for s, t in zip(size, target, strict=True))
    return builder.add("Round", builder.resize_planes(frames, rows, columns, 6))
