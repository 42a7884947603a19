"""The GPU's part of `make bench`: CUDA graphs, and what the pipeline adds. Says so where there is no GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
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
from edge.profiler.measurement.stages import gpu_ms
from edge.profiler.report.table import PAPER_FPS
from edge.release.manifest import Release, load_release, locate_release
from export.engines.build import build_engines
from export.engines.build_source import release_engine_source
from tests.bench.engines import BATCH, small_release
from tests.bench.rows import Row, turns
from trainer.inference.torch_runner import torch_candidates

FRAMES = 3000


class Still:
    """A source that costs nothing: one image of the student's size, again and again."""

    name, fps, width, height = "still", 30.0, 64, 64
    length: int | None = FRAMES

    def __iter__(self) -> Iterator[Frame]:
        image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        for index in range(FRAMES):
            yield Frame(index, index / self.fps, image)

    def close(self) -> None:
        """Nothing to close."""


def built(folder: Path) -> Release:
    """Build the engines of a release for the GPU at hand."""
    kinds: dict[str, TensorRTKind] = {"local": "tensorrt", "rtx": "rtx"}
    refused = ""
    for target, kind in kinds.items():
        try:
            load_tensorrt(kind)
        except InputError as error:
            refused = str(error)
            continue
        release = load_release(folder)
        list(
            build_engines(
                release_engine_source(release), BuildTarget.parse(target), folder / "engines" / target
            )
        )
        return release
    raise InputError(refused)


def opened(release: Release, precision: str, graphs: bool) -> TensorRTRunner:
    """Open the runner of an engine, with CUDA graphs or without."""
    found = select_engine(release, precision, "stream", "tensorrt").plan
    assert found is not None
    size = release.preprocessing.height, release.preprocessing.width
    return TensorRTRunner(
        TensorRTEngine(read_plan(found.path, found.plan_sha256), found.kind),
        open_cuda(),
        GraphSignature({"frame": (1, 3, *size)}, {"saliency": (1, 1, *size)}, release.states),
        RunnerOptions(cuda_graphs=graphs),
    )


def replay_rows(folder: Path) -> list[Row]:
    """SKD-32, batch 1, fp16: the runner's whole call, replayed and launched plainly."""
    small_release(folder / "skd-32", 32)
    release = built(folder / "skd-32")
    feed = {"frame": np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)}
    runners = {"replay": opened(release, "fp16", True), "plain": opened(release, "fp16", False)}
    for runner in runners.values():
        print(runner.description)
    calls: dict[str, Callable[[], object]] = {
        name: lambda runner=runner: runner.infer(feed)  # type: ignore[misc]
        for name, runner in runners.items()
    }
    seconds = turns(calls, calls=50, rounds=20)
    for runner in runners.values():
        runner.close()
    print({name: f"{value * 1e3:.3f} ms" for name, value in seconds.items()})
    what = "SKD-32, fp16, batch 1: CUDA graph's rate over plain launches'"
    return [Row(what, seconds["plain"] / seconds["replay"], "x", 1.5)]


def papers_rows(folder: Path) -> list[Row]:
    """SKD-32 by the paper's protocol, fp16: pairs, batch 256, by CUDA's events around the forward pass."""
    small_release(folder / "pairs", 32, ["pair"])
    release, paper = built(folder / "pairs"), PAPER_FPS["GPU (one GTX 1080 Ti)"]
    found, _ = find_candidates(release, ["fp16"], "pair", "tensorrt", batches=[BATCH])
    found += torch_candidates("skd-32", release, ["fp16"], "pair", None, [BATCH])[0]
    rows = []
    for contender in found:
        times = gpu_ms(contender, golden_feeds(release, "pair", BATCH))
        assert times is not None
        fps = BATCH * 1e3 / times["gpu_ms"]
        print(f"{contender.name}: {fps:,.0f} fps; the paper's, on one GTX 1080 Ti: {paper:,.0f}")
        rows.append(Row(f"SKD-32, {contender.name}: fps over the paper's", fps / paper, "x", 10))
    return rows


def pipeline_rows(folder: Path) -> list[Row]:
    """The shipped student: a whole run's rate against the engine's, with as many frames in flight."""
    place = folder / "skd-64"
    place.mkdir()
    for file in locate_release(None).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    built(place)
    model = SaliencyModel(place, "fp16", engine="tensorrt")
    prepared = [model.prepare(frame.image) for frame in Still()][:16]

    def engine() -> None:
        flying: deque[int] = deque()
        for index in range(FRAMES):
            model.submit(prepared[index % len(prepared)])
            flying.append(index)
            if len(flying) == model.depth:
                model.collect()
                flying.popleft()
        for _ in flying:
            model.collect()

    def whole() -> None:
        run_pipeline(Still(), model, [])

    seconds = turns({"engine": engine, "whole": whole}, calls=1, rounds=7)
    print(model.engine, {name: f"{FRAMES / value:.0f} frames/s" for name, value in seconds.items()})
    model.close()
    return [
        Row("skd-64, fp16: a run's rate over the engine's", seconds["engine"] / seconds["whole"], "x", 0.95)
    ]


def gpu_rows(folder: Path) -> list[Row]:
    """Return all rows; none, and why, where there is no GPU, or nothing that runs engines on it."""
    if detect_gpu() is None:
        print("GPU: not measured, there is no NVIDIA GPU here, or no driver for one")
        return []
    rows: list[Row] = []
    for measured in (replay_rows, pipeline_rows, papers_rows):
        try:
            rows += measured(folder)
        except InputError as error:  # noqa: PERF203 - the others are measured
            print(f"GPU: {measured.__name__} not measured, {error}")
    return rows
