"""The one interface of engines. A file per engine; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, runtime_checkable

from edge.engines import Choice, Engine, choose, read_plan
from edge.frames import Input, Tensor
from edge.release import Form, Release
from edge.states import NOMINAL_FPS
from edge.weights import check_finite


class Runner(Protocol):
    """An engine that was opened for one graph. States are carried inside, from call to call."""

    description: str
    """Which engine, version, device and threads: for reports."""

    def infer(self, feed: Mapping[str, Input]) -> dict[str, Tensor]:
        """Return the outputs (states left out) by name for inputs by name, float32.

        A returned array is valid until the next call.
        """

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""

    def close(self) -> None:
        """Free the engine. A closed runner cannot be used again."""


@runtime_checkable
class Overlapping(Runner, Protocol):
    """A runner that can start on a frame while one before it is still computed.

    One thread submits and collects; results come in order. While frames are in flight, `infer` is refused.
    """

    depth: int
    """How many frames may be in flight."""

    def submit(self, feed: Mapping[str, Input]) -> None:
        """Start on a frame, and return at once; `feed` may be changed then."""

    def collect(self) -> dict[str, Tensor]:
        """Wait for the oldest frame in flight; what is returned is valid until the next `submit`."""


def open_runner(
    release: Release,
    precision: str,
    form: Form = "stream",
    threads: int | None = None,
    engine: Choice = "onnxruntime",
) -> Runner:
    """Open an engine for one of the release's graphs.

    `threads`: of ONNX Runtime; None takes one for each core.

    Raises:
        InputError: the release has no such graph, its file is not one that the engine can run, or has NaN;
            or TensorRT is asked for and cannot be.
    """
    return open_engine(release, choose(release, precision, form, engine), threads)


def open_engine(
    release: Release,
    engine: Engine,
    threads: int | None = None,
    batch: int = 1,
    timed: bool = False,
    profile_to: Path | None = None,
) -> Runner:
    """Open the engine that was chosen; raises as `open_runner` does.

    `batch`: what TensorRT runs at, where the graph takes any; ONNX Runtime takes what comes. `timed`: the
    times on the GPU are taken, too. `profile_to`: the runner has `layer_times`; see `OnnxRunner`.
    """
    graph = engine.graph
    check_finite(release.path(graph))
    size = release.preprocessing.height, release.preprocessing.width
    maps = release.clip.maps if graph.form == "clip" and release.clip else 1
    inputs = dict.fromkeys(release.inputs_of(graph.form), release.input_shape(graph.batch, graph.form))
    outputs: dict[str, tuple[int | None, ...]] = {release.output: (graph.batch, maps, *size)}
    states = release.states if graph.form == "stream" else ()
    if engine.built is None:
        from edge.onnx_runner import OnnxRunner

        return OnnxRunner(release.path(graph), inputs, outputs, states, threads, profile_to)
    from edge.cuda import open_cuda
    from edge.tensorrt_api import Execution
    from edge.tensorrt_runner import TensorRTRunner

    plan = read_plan(engine.built.path, engine.built.plan_sha256)
    cuda = open_cuda()
    free = cuda.free_bytes()
    with ExitStack() as opened:
        opened.callback(cuda.close)
        execution = Execution(plan, engine.built.kind)
        opened.callback(execution.close)
        layers = profile_to is not None
        runner = TensorRTRunner(
            execution, cuda, inputs, outputs, states, batch=batch, timed=timed, layers=layers
        )
        if not cuda.integrated:  # there it is everybody's
            runner.gpu_bytes = free - cuda.free_bytes()
        opened.pop_all()
    return runner
