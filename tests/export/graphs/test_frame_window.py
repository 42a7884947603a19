"""Tests of window streams: a graph that takes T frames becomes a stream; its states are the frames before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import InputError
from edge.inference.interface.runner import GraphSignature, Runner
from edge.inference.onnxruntime.runner import OnnxRunner
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from export.graphs.frame_window import KEPT_FRAME, to_window_stream, window_states
from tests.support.simulated_gpu import OnnxEngine, SimulatedCuda

FRAMES, SHAPE = 5, (1, 3, 2, 4)
WEIGHTS = 10.0 ** np.arange(FRAMES, dtype=np.float32)
"""Weights of the frames of a window in the test's map, the oldest first: they show each frame's place."""


def clip_graph(extra: str = "") -> onnx.ModelProto:
    """Return a graph whose map is the mean over channels of the weighted frames."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["frame", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "time"], ["summed"], keepdims=0),
        helper.make_node("ReduceMean", ["summed", "channel"], ["saliency"]),
    ]
    if extra:
        nodes.append(helper.make_node("Identity", ["saliency"], [extra]))
    constants = {
        "weights": WEIGHTS.reshape(1, 1, FRAMES, 1, 1),
        "time": np.array([2], np.int64),
        "channel": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "clip",
        [value("frame", TensorProto.FLOAT, [1, 3, FRAMES, 2, 4])],
        [value("saliency", TensorProto.FLOAT, [1, 1, 2, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def stream(tmp_path: Path) -> tuple[Path, GraphSignature]:
    """The file of a window stream, and its tensors."""
    states = window_states(FRAMES, *SHAPE[2:])
    path = tmp_path / "stream.onnx"
    onnx.save(to_window_stream(clip_graph(), "frame", states), path)
    return path, GraphSignature({"frame": SHAPE}, {"saliency": (1, 1, *SHAPE[2:])}, states)


def check_windows(runner: Runner) -> None:
    """Check each map of a clip that is longer than the ring of any engine, and of the clip after it."""
    for start, length in ((1, 40), (3, 3)):
        values = np.arange(start, start + length)
        runner.reset(30.0)
        for index, value in enumerate([values[0], *values]):  # the preroll of a window
            feed = {"frame": np.full(SHAPE, value, np.float32)}
            saliency = runner.infer(feed)["saliency"].copy()
            if index:
                window = np.concatenate([[values[0]] * FRAMES, values[:index]])[-FRAMES:]
                np.testing.assert_allclose(saliency, float(window @ WEIGHTS), rtol=1e-6)


def test_frames_before_are_states_that_share_one_output(stream: tuple[Path, GraphSignature]) -> None:
    path, signature = stream
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["frame", *(f"frame_{age}_before" for age in range(1, 5))]
    assert [value.name for value in graph.output] == ["saliency", KEPT_FRAME]
    assert {state.output for state in signature.states} == {KEPT_FRAME}
    assert [state.lag_frames(fps) for fps in (1.0, 60.0) for state in signature.states] == [1, 2, 3, 4] * 2


def test_onnxruntime_slides_the_window_by_one_frame(stream: tuple[Path, GraphSignature]) -> None:
    check_windows(OnnxRunner(*stream, threads=1))


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_tensorrt_keeps_the_window_in_a_ring_of_buffers(
    stream: tuple[Path, GraphSignature], zero_copy: bool, cuda_graphs: bool
) -> None:
    path, signature = stream
    cuda = SimulatedCuda()
    options = RunnerOptions(zero_copy=zero_copy, cuda_graphs=cuda_graphs)
    runner = TensorRTRunner(OnnxEngine(str(path), cuda), cuda, signature, options)
    check_windows(runner)
    runner.close()


def test_graph_with_a_tensor_of_that_name_is_refused() -> None:
    with pytest.raises(InputError, match="a tensor of the graph is called frame_2_before"):
        to_window_stream(clip_graph("frame_2_before"), "frame", window_states(FRAMES, *SHAPE[2:]))
