"""Opens the engine for one graph of a release; each engine is imported only when it is used."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from edge.inference.engine_selection import EngineChoice, SelectedEngine, read_plan, select_engine
from edge.inference.interface.runner import Runner
from edge.release.manifest import Form, Release
from edge.release.weight_check import check_finite


def open_runner(
    release: Release,
    precision: str,
    form: Form = "stream",
    threads: int | None = None,
    engine: EngineChoice = "onnxruntime",
) -> Runner:
    """Open an engine for one of the release's graphs.

    `threads`: of ONNX Runtime; None takes one for each core.

    Raises:
        InputError: the release has no such graph, its file is not one that the engine can run, or has NaN;
            or TensorRT is asked for and cannot be.
    """
    return open_selected_engine(release, select_engine(release, precision, form, engine), threads)


def open_selected_engine(
    release: Release,
    engine: SelectedEngine,
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
    inputs = dict.fromkeys(release.input_names(graph.form), release.input_shape(graph.batch, graph.form))
    outputs: dict[str, tuple[int | None, ...]] = {release.output: (graph.batch, maps, *size)}
    states = release.states if graph.form == "stream" else ()
    if engine.plan is None:
        from edge.inference.onnxruntime.runner import OnnxRunner

        return OnnxRunner(release.path(graph), inputs, outputs, states, threads, profile_to)
    from edge.inference.cuda.backend import open_cuda
    from edge.inference.tensorrt.api import TensorRTEngine
    from edge.inference.tensorrt.runner import TensorRTRunner

    plan = read_plan(engine.plan.path, engine.plan.plan_sha256)
    cuda = open_cuda()
    free = cuda.free_bytes()
    with ExitStack() as opened:
        opened.callback(cuda.close)
        execution = TensorRTEngine(plan, engine.plan.kind)
        opened.callback(execution.close)
        layers = profile_to is not None
        runner = TensorRTRunner(
            execution, cuda, inputs, outputs, states, batch=batch, timed=timed, layers=layers
        )
        if not cuda.integrated:  # there it is everybody's
            runner.gpu_bytes = free - cuda.free_bytes()
        opened.pop_all()
    return runner
