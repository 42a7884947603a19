"""Speed on a GPU: CUDA graphs, the paper's protocol, and the pipeline's share; nothing without a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Frame
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import open_cuda
from edge.inference.engine_selection import read_plan, select_engine
from edge.inference.interface.runner import GraphSignature
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.api import TensorRTEngine, load_tensorrt
from edge.inference.tensorrt.build_target import BuildTarget, TensorRTKind
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from edge.pipeline.run import run_pipeline
from edge.profiler.measurement.candidate import find_candidates, golden_feeds
from edge.profiler.measurement.stages import time_gpu_stages
from edge.profiler.report.table import PAPER_FPS
from edge.release.manifest import Release, load_release, locate_release
from export.engines.build import build_engines
from export.engines.build_source import release_engine_source
from tests.bench.engines import PAPER_BATCH, export_untrained
from tests.bench.rows import BenchRow, print_note, print_rates, print_times, time_in_turns
from trainer.inference.torch_runner import torch_candidates

FRAMES = 3000


class RepeatedFrameSource:
    """Source that costs no time: one image of the student's size, again and again."""

    name, fps, width, height = "still", 30.0, 64, 64
    length: int | None = FRAMES

    def __iter__(self) -> Iterator[Frame]:
        image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        for index in range(FRAMES):
            yield Frame(index, index / self.fps, image)

    def close(self) -> None:
        """Do nothing."""


def build_release(folder: Path) -> Release:
    """Build the engines of a release for this GPU, with the first TensorRT that can be loaded.

    Raises:
        InputError: No TensorRT can be loaded.
    """
    kinds: dict[str, TensorRTKind] = {"local": "tensorrt", "rtx": "rtx"}
    reason = ""
    for target, kind in kinds.items():
        try:
            load_tensorrt(kind)
        except InputError as error:
            reason = str(error)
            continue
        release = load_release(folder)
        source = release_engine_source(release)
        list(build_engines(source, BuildTarget.parse(target), folder / "engines" / target))
        return release
    raise InputError(reason)


def open_engine(release: Release, precision: str, cuda_graphs: bool) -> TensorRTRunner:
    """Open the runner of an engine, with CUDA graphs or without."""
    plan = select_engine(release, precision, "stream", "tensorrt").plan
    assert plan is not None
    size = release.preprocessing.height, release.preprocessing.width
    return TensorRTRunner(
        TensorRTEngine(read_plan(plan.path, plan.plan_sha256), plan.kind),
        open_cuda(),
        GraphSignature({"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, release.states),
        RunnerOptions(cuda_graphs=cuda_graphs),
    )


def cuda_graph_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the speed-up of a replayed CUDA graph over plain launches: SKD-32, batch 1, fp16."""
    export_untrained(folder / "skd-32", 32)
    release = build_release(folder / "skd-32")
    feed = {"frame": np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)}
    runners = {
        "replay": open_engine(release, "fp16", True),
        "plain": open_engine(release, "fp16", False),
    }
    for runner in runners.values():
        print_note(runner.description)
    calls = {name: partial(runner.infer, feed) for name, runner in runners.items()}
    seconds = time_in_turns(calls, repeats=50, rounds=20)
    for runner in runners.values():
        runner.close()
    print_times("SKD-32, fp16, per call", seconds)
    label = "SKD-32, fp16, batch 1: rate of the CUDA graph over plain launches"
    yield BenchRow(label, seconds["plain"] / seconds["replay"], "x", 1.5)


def paper_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the rate of SKD-32 by the paper's protocol: fp16 pairs at batch 256, timed by CUDA events."""
    export_untrained(folder / "pairs", 32, ["pair"])
    release, paper_fps = build_release(folder / "pairs"), PAPER_FPS["GPU (one GTX 1080 Ti)"]
    candidates, _ = find_candidates(release, ["fp16"], "pair", "tensorrt", batches=[PAPER_BATCH])
    candidates += torch_candidates("skd-32", release, ["fp16"], "pair", None, [PAPER_BATCH])[0]
    for candidate in candidates:
        times = time_gpu_stages(candidate, golden_feeds(release, "pair", PAPER_BATCH))
        assert times is not None
        fps = PAPER_BATCH * 1e3 / times["gpu_ms"]
        print_note(f"{candidate.name}: {fps:,.0f} fps; the paper, on one GTX 1080 Ti: {paper_fps:,.0f}")
        yield BenchRow(f"SKD-32, {candidate.name}: fps over the paper's", fps / paper_fps, "x", 10)


def pipeline_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the rate of a run of the shipped student over its engine, with as many frames in flight."""
    release_folder = folder / "skd-64"
    release_folder.mkdir()
    for file in locate_release("skd-64").iterdir():
        (release_folder / file.name).write_bytes(file.read_bytes())
    build_release(release_folder)
    model = SaliencyModel(release_folder, "fp16", engine="tensorrt")
    prepared = [model.prepare(frame.image) for frame in RepeatedFrameSource()][:16]

    def run_engine() -> None:
        in_flight: deque[int] = deque()
        for index in range(FRAMES):
            model.submit(prepared[index % len(prepared)])
            in_flight.append(index)
            if len(in_flight) == model.depth:
                model.collect()
                in_flight.popleft()
        for _ in in_flight:
            model.collect()

    def run() -> None:
        run_pipeline(RepeatedFrameSource(), model, [])

    seconds = time_in_turns({"engine": run_engine, "run": run}, repeats=1, rounds=7)
    print_rates(f"skd-64, fp16, {model.engine}", seconds, FRAMES)
    model.close()
    label = "skd-64, fp16: rate of a run over the engine's"
    yield BenchRow(label, seconds["engine"] / seconds["run"], "x", 0.95)


def gpu_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield all rows; without a GPU or an engine for it, print the reason."""
    if detect_gpu() is None:
        print_note("GPU: not measured, there is no NVIDIA GPU here, or no driver for one")
        return
    for rows in (cuda_graph_rows, pipeline_rows, paper_rows):
        try:
            yield from rows(folder)
        except InputError as error:  # noqa: PERF203 - the others are measured
            print_note(f"GPU: {rows.__name__} not measured, {error}")
