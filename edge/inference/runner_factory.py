"""Opens the engine for one graph of a release. Each engine's libraries are imported only when it is used."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from edge.core.errors import InputError
from edge.inference.cuda.errors import UNKNOWN, CudaError
from edge.inference.engine_selection import BuiltPlan, EngineChoice, SelectedEngine, read_plan, select_engine
from edge.inference.interface.runner import GraphSignature, Runner
from edge.release.release import Form, Graph, Release
from edge.release.weight_check import check_finite

if TYPE_CHECKING:
    from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner

GpuWait = Literal["spin", "block"]
GPU_WAITS: tuple[GpuWait, ...] = get_args(GpuWait)
WAIT_VARIABLE = "AEROGAZE_GPU_WAIT"
"""Environment variable: how a thread waits for the GPU; `--gpu-wait` sets it."""


def open_runner(
    release: Release,
    precision: str,
    form: Form = "stream",
    threads: int | None = None,
    engine: EngineChoice = "onnxruntime",
) -> Runner:
    """Select and open an engine for a graph of a release.

    Args:
        release: The release.
        precision: The precision of the graph.
        form: The form of the graph.
        threads: Threads of ONNX Runtime; None for one per core.
        engine: The engine, or "auto".

    Raises:
        InputError: The release has no such graph, the engine cannot run its file, a weight is not finite, or
            TensorRT was requested and no engine matches.
    """
    return open_selected_engine(release, select_engine(release, precision, form, engine), threads)


def open_engine(
    release: Release,
    precision: str | None,
    form: Form,
    threads: int | None = None,
    choice: EngineChoice = "auto",
) -> tuple[SelectedEngine, Runner]:
    """Select and open an engine; with "auto", one that TensorRT cannot open is replaced by ONNX Runtime.

    Args:
        release: The release.
        precision: The precision; None selects one, see `select_engine`.
        form: The form of the graph.
        threads: Threads of ONNX Runtime; None for one per core.
        choice: The engine, or "auto".

    Returns:
        The engine, with the reason if it is a replacement, and its runner.

    Raises:
        InputError: As for `open_runner`.
        CudaError: The GPU is lost: no engine helps, the process must be restarted.
    """
    selected = select_engine(release, precision, form, choice)
    try:
        return selected, open_selected_engine(release, selected, threads)
    except InputError as error:
        lasts = isinstance(error, CudaError) and (error.lost or error.name == UNKNOWN)
        if choice != "auto" or selected.plan is None or lasts:
            raise
        reason = str(error)
    selected = replace(select_engine(release, precision, form, "onnxruntime"), fallback_reason=reason)
    return selected, open_selected_engine(release, selected, threads)


def open_selected_engine(
    release: Release,
    engine: SelectedEngine,
    threads: int | None = None,
    batch: int = 1,
    timed: bool = False,
    profile_to: Path | None = None,
) -> Runner:
    """Open an engine that was selected before.

    Args:
        release: The release.
        engine: The selected engine.
        threads: Threads of ONNX Runtime; None for one per core.
        batch: Batch size on TensorRT if the graph's is dynamic. ONNX Runtime accepts any.
        timed: Measure each frame on the GPU; see `TensorRTRunner.timing`.
        profile_to: Measure layers: the runner has `layer_times`. ONNX Runtime writes its profile to a file
            whose name starts with this path.

    Raises:
        InputError: As for `open_runner`.
    """
    graph = engine.graph
    check_finite(release.path(graph))
    signature = graph_signature(release, graph)
    if engine.plan is None:
        from edge.inference.onnxruntime.runner import OnnxRunner

        return OnnxRunner(release.path(graph), signature, threads, profile_to)
    from edge.inference.tensorrt.runner import RunnerOptions

    options = RunnerOptions(
        batch=batch,
        timed=timed,
        time_layers=profile_to is not None,
        blocking_wait=blocks_while_waiting(),
    )
    return open_plan(engine.plan, signature, options)


def open_plan(plan: BuiltPlan, signature: GraphSignature, options: RunnerOptions) -> TensorRTRunner:
    """Open a plan of TensorRT.

    Args:
        plan: The plan.
        signature: The tensors that the graph has.
        options: How to run it.

    Raises:
        InputError: As for `open_runner`.
    """
    from edge.inference.cuda.backend import open_cuda
    from edge.inference.tensorrt.api import TensorRTEngine
    from edge.inference.tensorrt.runner import TensorRTRunner

    data = read_plan(plan.path, plan.plan_sha256)
    cuda = open_cuda()
    # What cannot be opened to the end, as for want of memory, leaves nothing open.
    with ExitStack() as cleanup:
        cleanup.callback(cuda.close)
        available_bytes = cuda.available_bytes()
        tensorrt_engine = TensorRTEngine(data, plan.kind)
        cleanup.callback(tensorrt_engine.close)
        cleanup.callback(cuda.free_graphs)  # graphs refer to the engine
        runner = TensorRTRunner(tensorrt_engine, cuda, signature, options)
        if not cuda.integrated:  # shared memory is also taken by other programs
            runner.gpu_bytes = available_bytes - cuda.available_bytes()
        cleanup.pop_all()
    return runner


def blocks_while_waiting() -> bool:
    """Return whether a thread that waits for the GPU sleeps, as `--gpu-wait` says.

    Raises:
        InputError: The environment variable has another value.
    """
    value = os.environ.get(WAIT_VARIABLE) or "spin"
    if value not in GPU_WAITS:
        raise InputError(f"{WAIT_VARIABLE}={value!r}; expected {' or '.join(GPU_WAITS)}")
    return value == "block"


def graph_signature(release: Release, graph: Graph) -> GraphSignature:
    """Return the tensors that a graph of a release must have."""
    maps = release.clip.maps if graph.form == "clip" and release.clip else 1
    return GraphSignature(
        release.input_shapes(graph.batch, graph.form),
        {release.output: (graph.batch, maps, *release.map_shape)},
        release.states if graph.form == "stream" else (),
    )
