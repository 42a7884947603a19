"""Items about engines: build, accuracy, latency, CUDA graphs, zero copy, waits, cold start, power, memory."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.acceptance.workspace import (
    RELEASE,
    Outcome,
    UnavailableError,
    Workspace,
    copy_release,
    find_target,
    load_built,
    release_folder,
    require_gpu,
    run_aerogaze,
)
from edge.core.frames import Frame, Tensor
from edge.hardware.energy_meters import find_energy_meter
from edge.hardware.nvml import Nvml
from edge.inference.engine_selection import ENGINES_FOLDER, select_engine
from edge.inference.interface.runner import GraphSignature, Runner
from edge.inference.onnxruntime.runner import OnnxRunner
from edge.inference.runner_factory import graph_signature, open_plan
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from edge.metrics.saliency import cc
from edge.pipeline.run import run_pipeline
from edge.profiler.measurement.candidate import InputFeed, golden_feeds
from edge.profiler.measurement.energy import measure_energy, measure_idle_power
from edge.profiler.measurement.memory import resident_bytes
from edge.profiler.measurement.statistics import summarize_times
from edge.release.manifest import load_release
from edge.release.release import Form, Release
from edge.sources.factory import open_source

LEAST_CC = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.99}
"""Least CC of an engine's map with that of ONNX Runtime for the same graph."""
FOOTAGE = "synthetic:7:320x180:30"
PIPELINE_GOAL, GRAPH_GOAL = 0.95, 1.5
ROUNDS = 10
"""Turns of each variant that are measured."""
PIPELINE_FRAMES, MEMORY_FRAMES = (3000, 1000), (100_000, 10_000)
"""Frames of a complete and of a quick acceptance."""
WARM_UP_FRAMES = 1000


class RepeatedFrameSource:
    """Source that costs no time: one image of the student's size, again and again.

    Args:
        length: Number of frames.
    """

    name, fps, width, height = "still", 30.0, 64, 64

    def __init__(self, length: int = 3000) -> None:
        self.length: int | None = length

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames."""
        image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        for index in range(self.length or 0):
            yield Frame(index, index / self.fps, image)

    def close(self) -> None:
        """Do nothing."""


def build(workspace: Workspace, name: str, precision: str, form: Form = "stream") -> Outcome:
    """Build the engine of one precision alone: one that is refused does not stop the others."""
    target = find_target()
    folder = copy_release(workspace, load_release(name), precision, form)
    run_aerogaze(["build", folder, "--target", target])
    (path,) = (folder / ENGINES_FOLDER).glob("*/*.engine.json")
    identity = json.loads(path.read_text())
    text = (
        f"{identity['seconds']:.1f} s, {identity['size_bytes'] / 1024:.0f} KiB, {identity['kind']} "
        f"{identity['version']}"
    )
    return Outcome(text, {"identity": identity})


def open_variant(release: Release, form: Form = "stream", **options: Any) -> TensorRTRunner:
    """Open the engine of a release with options that may differ from those of a flight."""
    (graph,) = release.graphs
    plan = select_engine(release, graph.precision, form, "tensorrt").plan
    assert plan is not None
    return open_plan(plan, graph_signature(release, graph), RunnerOptions(**options))


def measure_engine(workspace: Workspace, precision: str) -> Outcome:
    """Compare an engine with ONNX Runtime, and time it in each way that it can run."""
    require_gpu()
    release = load_built(workspace, RELEASE, precision)
    feeds = _footage_feeds(release)
    started_s = time.perf_counter()
    runner = open_variant(release)
    opened_s = time.perf_counter() - started_s
    maps = _infer(runner, feeds, release.output)
    description, gpu_bytes = runner.description, runner.gpu_bytes
    runner.close()
    least_cc = min(cc(a, b) for a, b in zip(maps, _reference_maps(release, feeds), strict=True))
    variants: dict[str, dict[str, Any]] = {
        "as flown": {},
        "plain launches": {"cuda_graphs": False},
        "copied": {"zero_copy": False},
        "zero copy": {"zero_copy": True},
        "blocking waits": {"blocking_wait": True},
    }
    runners = {name: open_variant(release, **options) for name, options in variants.items()}
    rows = time_in_turns(runners, feeds, 20 if workspace.quick else 60)
    for each in runners.values():
        each.close()
    flown = rows["as flown"]
    text = (
        f"{description}; CC with ONNX Runtime at least {least_cc:.5f}; "
        + "; ".join(
            f"{name} p50 {row['p50_ms']:.3f} ms (p99 {row['p99_ms']:.3f}, CPU {row['cpu_ms']:.3f})"
            for name, row in rows.items()
        )
        + (f"; GPU memory {gpu_bytes / 1e6:.0f} MB" if gpu_bytes is not None else "")
    )
    values = {
        "engine": description,
        "least_cc": least_cc,
        "opened_s": opened_s,
        "gpu_bytes": gpu_bytes,
        "p50_ms": flown["p50_ms"],
        "variants": rows,
    }
    goal = f"CC at least {LEAST_CC[precision]:g}"
    return Outcome(text, values, goal, least_cc >= LEAST_CC[precision])


def time_in_turns(
    runners: Mapping[str, Runner], feeds: Sequence[InputFeed], calls: int
) -> dict[str, dict[str, float]]:
    """Return latency and CPU time per call of runners that take turns; the first round warms up."""
    rounds = ROUNDS
    times: dict[str, list[list[float]]] = {name: [] for name in runners}
    cpu_s = dict.fromkeys(runners, 0.0)
    for round_ in range(rounds + 1):
        for name, runner in runners.items():
            turn, cpu_start_s = [], time.thread_time()
            for index in range(calls):
                start_s = time.perf_counter()
                runner.infer(feeds[index % len(feeds)])
                turn.append((time.perf_counter() - start_s) * 1e3)
            if round_:
                times[name].append(turn)
                cpu_s[name] += time.thread_time() - cpu_start_s
    return {
        name: {**summarize_times(np.asarray(turns)), "cpu_ms": cpu_s[name] * 1e3 / (rounds * calls)}
        for name, turns in times.items()
    }


def _footage_feeds(release: Release) -> list[InputFeed]:
    source = open_source(FOOTAGE)
    try:
        return [{"frame": release.prepare(frame.image)} for frame in source]
    finally:
        source.close()


def _infer(runner: Runner, feeds: Sequence[InputFeed], output: str) -> list[Tensor]:
    runner.reset()
    return [runner.infer(feed)[output][0, 0].copy() for feed in feeds]


def _reference_maps(release: Release, feeds: Sequence[InputFeed]) -> list[Tensor]:
    """Return the maps of ONNX Runtime for the graph that the engine was built from."""
    (graph,) = release.graphs
    runner = OnnxRunner(release.path(graph), _signature(release), threads=1)
    maps = _infer(runner, feeds, release.output)
    runner.close()
    return maps


def _signature(release: Release) -> GraphSignature:
    return graph_signature(release, release.graphs[0])


def measure_graph_gain(workspace: Workspace) -> Outcome:
    """Compare a replayed CUDA graph with plain launches: SKD-32, fp16, batch 1."""
    require_gpu()
    release = load_built(workspace, "skd-32", "fp16")
    feeds = golden_feeds(release, "stream", 1)
    runners = {"replay": open_variant(release), "plain": open_variant(release, cuda_graphs=False)}
    rows = time_in_turns(runners, feeds, 100)
    for runner in runners.values():
        runner.close()
    gain = rows["plain"]["p50_ms"] / rows["replay"]["p50_ms"]
    text = f"{gain:.2f} times, {rows['replay']['p50_ms']:.3f} ms against {rows['plain']['p50_ms']:.3f} ms"
    return Outcome(
        text, {"gain": gain, "variants": rows}, f"at least {GRAPH_GOAL:g} times", gain >= GRAPH_GOAL
    )


def measure_cold_start(workspace: Workspace) -> Outcome:
    """Time a process that starts, opens the engine and gives 20 maps; the second one finds warm caches."""
    require_gpu()
    load_built(workspace, RELEASE, "fp16")
    folder = release_folder(workspace, RELEASE, "fp16")
    seconds, summary = [], {}
    for _ in range(2):
        started_s = time.perf_counter()
        words: list[str | Path] = [
            "run",
            "synthetic:7:320x180:20",
            "--release",
            folder,
            "--engine",
            "tensorrt",
            "--json",
        ]
        summary = json.loads(run_aerogaze(words))
        seconds.append(time.perf_counter() - started_s)
    text = f"{seconds[0]:.1f} s, then {seconds[1]:.1f} s, from start to end with 20 maps"
    return Outcome(text, {"seconds": seconds, "summary": summary})


def measure_pipeline(workspace: Workspace) -> Outcome:
    """Compare the rate of a run with that of its engine, with as many frames in flight."""
    require_gpu()
    load_built(workspace, RELEASE, "fp16")
    frames = PIPELINE_FRAMES[workspace.quick]
    with SaliencyModel(release_folder(workspace, RELEASE, "fp16"), "fp16", engine="tensorrt") as model:
        ratio, rates = compare_pipeline(model, frames)
    text = f"{ratio:.2f}, {rates['run']:.0f} frames/s against {rates['engine']:.0f}"
    return Outcome(
        text, {"ratio": ratio, "fps": rates}, f"at least {PIPELINE_GOAL:g}", ratio >= PIPELINE_GOAL
    )


def compare_pipeline(model: SaliencyModel, frames: int, rounds: int = 5) -> tuple[float, dict[str, float]]:
    """Return the rate of a run over that of its engine, and both rates in frames per second."""
    prepared = [model.prepare(frame.image) for frame in RepeatedFrameSource(16)]

    def run_engine() -> None:
        in_flight: deque[None] = deque()
        for index in range(frames):
            model.submit(prepared[index % len(prepared)])
            in_flight.append(None)
            if len(in_flight) == model.depth:
                model.collect()
                in_flight.popleft()
        for _ in in_flight:
            model.collect()

    calls: dict[str, Callable[[], object]] = {
        "engine": run_engine,
        "run": lambda: run_pipeline(RepeatedFrameSource(frames), model, []),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start_s = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start_s)
    rates = {name: frames / float(np.median(values)) for name, values in seconds.items()}
    return rates["run"] / rates["engine"], rates


def measure_power(workspace: Workspace) -> Outcome:
    """Measure the power of the idle machine and with the engine kept busy, for both ways to wait."""
    require_gpu()
    meter = find_energy_meter(nvml=Nvml.open())
    if isinstance(meter, str):
        raise UnavailableError(meter)
    release, seconds = load_built(workspace, RELEASE, "fp16"), 5.0 if workspace.quick else 20.0
    feeds = _footage_feeds(release)
    idle_w = measure_idle_power(meter, seconds)
    values: dict[str, Any] = {"meter": meter.description, "idle_w": idle_w}
    for name, blocks in (("spin", False), ("block", True)):
        runner = open_variant(release, blocking_wait=blocks)
        energy = measure_energy(meter, idle_w, runner, feeds, 1, seconds)
        runner.close()
        values[name] = {"power_w": energy.power_w, "joules_per_frame": energy.joules_per_frame}
    rows = (f"{name} {values[name]['power_w']:.1f} W" for name in ("spin", "block"))
    return Outcome(f"{meter.description}: idle {idle_w:.1f} W, {', '.join(rows)}", values)


def measure_memory(workspace: Workspace) -> Outcome:
    """Measure how the memory of the process grows over many frames, after a warm-up."""
    require_gpu()
    release, frames = load_built(workspace, RELEASE, "fp16"), MEMORY_FRAMES[workspace.quick]
    feeds, runner = _footage_feeds(release), open_variant(release)

    def run(count: int) -> int:
        for index in range(count):
            runner.infer(feeds[index % len(feeds)])
        return resident_bytes() or 0

    grown = -run(WARM_UP_FRAMES) + run(frames)
    runner.close()
    text = f"{grown / 1e6:+.2f} MB over {frames:,} frames"
    return Outcome(text, {"frames": frames, "grown_bytes": grown}, "less than 5 MB", grown < 5_000_000)
