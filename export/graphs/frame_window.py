"""Graphs that take a window of frames, as streams: the frames before the newest one are states.

A graph in clip form takes T frames at once, so each frame would be copied to it T times. As a stream it takes
the newest frame and gives it back as a state output. The T - 1 frames before are states that all read this
output, each with a lag of its own. So every engine keeps the window as it keeps any state, TensorRT as a ring
of buffers on the GPU (`edge.inference.tensorrt.device_state`), and each frame is copied to it once.

Until the window is full, a state reads the oldest output, so a window starts with copies of the first frame.
For the first map, the first frame is fed twice (`Release.preroll`).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge.core.errors import InputError
from edge.release.release import StateSpec
from export.graphs.fused_preprocessing import prepend, replace_input
from export.graphs.node_builder import NodeBuilder, find_free_name

KEPT_FRAME = "frame_out"
WINDOW_PREROLL = 1
"""How often the first frame is fed before its map counts."""


def window_states(frames: int, height: int, width: int) -> tuple[StateSpec, ...]:
    """Return the states of a window of frames: the frames before the newest one, the latest first.

    Args:
        frames: Frames of the window, with the newest one.
        height: Height of a frame.
        width: Width of a frame.
    """
    return tuple(
        StateSpec(f"frame_{age}_before", KEPT_FRAME, (1, 3, 1, height, width), 0.0, fixed_lag=age)
        for age in range(1, frames)
    )


def to_window_stream(model: onnx.ModelProto, frame: str, states: tuple[StateSpec, ...]) -> onnx.ModelProto:
    """Return a graph in clip form as a stream.

    Args:
        model: The graph. Its input is (1, 3, T, H, W).
        frame: Name of this input. It becomes the newest frame, (1, 3, H, W).
        states: The states of `window_states`.

    Raises:
        InputError: The graph has a tensor with the name of a state.
    """
    stream = onnx.ModelProto()
    stream.CopyFrom(model)
    graph = stream.graph
    names = [*(state.input for state in states), KEPT_FRAME]
    for name in names:
        if find_free_name(graph, name) != name:
            raise InputError(
                f"a tensor of the graph is called {name}, as a past frame of its window is; expected another "
                "name: rename it in the graph"
            )
    builder = NodeBuilder(find_free_name(graph, "window"))
    axis = builder.constant(np.array([2], np.int64), "time")
    builder.nodes.append(helper.make_node("Unsqueeze", [frame, axis], [KEPT_FRAME], name=KEPT_FRAME))
    past = [state.input for state in reversed(states)]
    replace_input(graph, frame, builder.add("Concat", *past, KEPT_FRAME, axis=2))
    prepend(graph, builder)
    shape = states[0].shape
    inputs = {frame: (1, 3, *shape[3:]), **{state.input: state.shape for state in states}}
    old = next(value for value in graph.input if value.name == frame)
    graph.input.remove(old)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    others = list(graph.input)
    del graph.input[:]
    graph.input.extend([*values, *others])
    graph.output.append(helper.make_tensor_value_info(KEPT_FRAME, TensorProto.FLOAT, shape))
    onnx.checker.check_model(stream, full_check=True)
    return stream
