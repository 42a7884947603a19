"""Cost of a live run: added latency, drops, memory, and what remains; overhead of the profiler."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from edge.core.frames import Frame
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.profiler.measurement.sampler import measure_overhead
from edge.sinks.files.jsonl import JsonlSink
from edge.sources.realtime_playback import PacedSource
from edge.sources.video_file import VideoSource
from tests.bench.measurement.row import (
    AnyBenchmark,
    Benchmark,
    Contestant,
    Reading,
    Readings,
    Row,
    print_note,
    read_out,
)
from tests.bench.rows.flight import write_clip

FPS = 100.0
CLIP_FRAMES = 300
FRAMES, WARM_UP_FRAMES = 150, 20
PROFILER_ATTEMPTS = 5
ADDED_MS = {50: 0.10, 99: 1.0}
"""Latency that the pipeline may add, by percentile."""
MEMORY_INTERVAL = 1000
"""Frames between two readings of the memory."""


def benchmarks() -> Sequence[AnyBenchmark]:
    """Return the added latency, and runs as long as `make bench` has time for."""
    added = [
        Row(
            f"latency added by the pipeline, p{percent}",
            f"p{percent}",
            unit="ms",
            bound=bound,
            at_least=False,
        )
        for percent, bound in ADDED_MS.items()
    ]
    return (
        Benchmark("pipeline", 45, added, _open_pipeline),
        Readings("real time", 45, partial(read_realtime, 40)),
        Readings("memory", 15, partial(read_memory, 10_000)),
    )


def long_benchmarks() -> Sequence[Readings]:
    """Return the same for as long as a flight: ten minutes, and then 100,000 frames."""
    return (
        Readings("real time", 610, partial(read_realtime, 600)),
        Readings("memory", 150, partial(read_memory, 100_000)),
    )


def profiler_benchmarks() -> Sequence[Benchmark]:
    """Return the time that the profiler adds to a call."""
    label = "profiler: time added to each measured call"
    row = Row(label, "profiler", unit="us", bound=2, at_least=False)
    return (Benchmark("overhead", 5, (row,), _open_profiler),)


class SteadySource:
    """Frames of the student's size at a frame rate; None: as fast as they are read."""

    name, width, height = "steady", 64, 64
    length: int | None = None

    def __init__(self, frames: int, fps: float | None) -> None:
        self.frames, self.fps, self.pause_s = frames, fps or FPS, 1 / fps if fps else 0.0
        self.image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames."""
        for index in range(self.frames):
            if self.pause_s:
                time.sleep(self.pause_s)
            yield Frame(index, time.monotonic(), self.image)

    def close(self) -> None:
        """Do nothing."""


class LoopedSource:
    """A video file, repeated until a number of frames is reached."""

    def __init__(self, clip: Path, frames: int) -> None:
        first = VideoSource(clip)
        self.name, self.width, self.height, self.fps = first.name, first.width, first.height, first.fps
        self.length: int | None = frames
        self._clip, self._frames = clip, frames
        first.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, with continuous media time."""
        index = 0
        while True:
            source = VideoSource(self._clip)
            for frame in source:
                if index == self._frames:
                    source.close()
                    return
                yield replace(frame, index=index, capture_s=index / self.fps)
                index += 1
            source.close()

    def close(self) -> None:
        """Do nothing."""


def read_realtime(seconds: float, folder: Path) -> Iterator[Reading]:
    """Yield drops and latency of `skd-64` on 1280x720 video at 30 fps in real time."""
    clip = write_clip(folder / "clip.mp4", CLIP_FRAMES)
    model = SaliencyModel("skd-64", None, 1)
    source = PacedSource(LoopedSource(clip, round(seconds * 30)))
    memory = MemoryRecorder()
    sinks = [JsonlSink(folder / "live.jsonl")]
    summary = run_pipeline(source, model, sinks, hooks=RunHooks(on_result=memory), live=LiveSettings())
    faults = ", ".join(f"{count} of {kind}" for kind, count in summary.faults.items()) or "none"
    print_note(
        f"real time, {seconds:g} s: {summary.frames} frames, {summary.dropped} dropped, capture to map "
        f"p50 {summary.latency_p50_ms:.2f} p99 {summary.latency_p99_ms:.2f} ms, faults: {faults}, "
        f"resident {memory.readings_mb[0]:.1f} to {memory.readings_mb[-1]:.1f} MB"
    )
    label = f"1280x720 at 30 fps in real time, {seconds:g} s"
    yield Reading(f"{label}: frames dropped", float(summary.dropped), "", 0, at_least=False)
    yield Reading(f"{label}: capture to map, p99", summary.latency_p99_ms, "ms", 20, at_least=False)


def read_memory(frames: int, folder: Path) -> Iterator[Reading]:
    """Yield the growth of the memory after the first 1,000 frames, and what a run leaves open."""
    model = SaliencyModel("skd-64", None, 1)
    handles_before = threading.active_count() + count_open_files()
    memory = MemoryRecorder()
    sinks = [JsonlSink(folder / "m.jsonl")]
    summary = run_pipeline(SteadySource(frames, None), model, sinks, hooks=RunHooks(on_result=memory))
    handles_left = threading.active_count() + count_open_files() - handles_before
    model.close()
    first_mb, last_mb = memory.readings_mb[0], memory.readings_mb[-1]
    print_note(f"{summary.frames} frames at {summary.fps:.0f} fps: {first_mb:.1f} to {last_mb:.1f} MB")
    growth_mb = max(memory.readings_mb) - first_mb
    label = f"{frames} frames"
    yield Reading(f"{label}: memory grown after the first 1,000", growth_mb, "MB", 5, at_least=False)
    yield Reading(
        f"{label}: threads, files and sockets left", float(handles_left), "", 0, at_least=False, spread=0
    )


class MemoryRecorder:
    """Hook on results that reads the resident memory every `MEMORY_INTERVAL` frames."""

    def __init__(self) -> None:
        self.readings_mb: list[float] = []

    def __call__(self, result: Result) -> None:
        if result.frame.index % MEMORY_INTERVAL == MEMORY_INTERVAL - 1:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def count_open_files() -> int:
    """Return the number of open files and sockets."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def _open_profiler(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    yield {"profiler": read_out(lambda: min(measure_overhead() for _ in range(PROFILER_ATTEMPTS)))}


@contextmanager
def _open_pipeline(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open what the pipeline adds to preparing and inferring in a plain loop, at the same frame rate.

    The frames have the student's size, so the difference is the pipeline's own: checks, and threads that wake
    each other. On a busy machine these wait for a core.
    """
    model = SaliencyModel("skd-64", None, 1)
    unread: dict[int, deque[float]] = {percent: deque() for percent in ADDED_MS}

    def read(percent: int) -> float:
        """Return a percentile of a turn that gave the other one before, or take a turn."""
        if not unread[percent]:
            loop_ms, pipeline_ms = _loop_latencies(model), _pipeline_latencies(model)
            for each, values in unread.items():
                values.append(float(np.percentile(pipeline_ms, each) - np.percentile(loop_ms, each)))
        return unread[percent].popleft()

    yield {f"p{percent}": read_out(partial(read, percent), comparable=False) for percent in ADDED_MS}
    model.close()


def _loop_latencies(model: SaliencyModel) -> list[float]:
    latencies_ms = []
    model.reset()
    for frame in SteadySource(FRAMES, FPS):
        model.infer(model.prepare(frame.image))
        latencies_ms.append((time.monotonic() - frame.capture_s) * 1e3)
    return latencies_ms[WARM_UP_FRAMES:]


def _pipeline_latencies(model: SaliencyModel) -> list[float]:
    latencies_ms: list[float] = []

    def record(result: Result) -> None:
        latencies_ms.append(result.latency_ms)

    live_model = SaliencyModel(model.release, model.precision, 1)  # a live run closes its model
    source = SteadySource(FRAMES, FPS)
    run_pipeline(source, live_model, [], hooks=RunHooks(on_result=record), live=LiveSettings())
    return latencies_ms[WARM_UP_FRAMES:]
