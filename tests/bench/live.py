"""Cost of the pipeline: added latency, a minute in real time, memory, and what remains after a run.

`python -m tests.bench long` takes ten minutes in real time, and then 100,000 frames.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge.core.frames import Frame
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.postprocessing.result import Result
from edge.sinks.files.jsonl import JsonlSink
from edge.sources.realtime_playback import PacedSource
from edge.sources.video_file import VideoSource
from tests.bench.flight import write_clip
from tests.bench.rows import BenchRow, print_note

FPS = 100.0
TURNS, FRAMES, WARM_UP_FRAMES = 12, 150, 20
MEMORY_INTERVAL = 1000
"""Frames between two readings of the memory."""


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


def added_latency_rows() -> Iterator[BenchRow]:
    """Yield the latency that the pipeline adds to preparing and inferring in a plain loop.

    Loop and pipeline take turns at the same frame rate, and each turn gives a difference. The frames have the
    student's size, so the difference is the pipeline's own: checks, and threads that wake each other. On a
    busy machine these wait for a core, so the quietest turn is printed, too.
    """
    model = SaliencyModel("skd-64", None, 1)
    turns: list[tuple[float, ...]] = []
    for _ in range(TURNS):
        loop_ms: list[float] = []
        map_ms: list[float] = []
        sink_ms: list[float] = []
        model.reset()
        for frame in SteadySource(FRAMES, FPS):
            model.infer(model.prepare(frame.image))
            loop_ms.append((time.monotonic() - frame.capture_s) * 1e3)

        def record(result: Result, map_ms: list[float] = map_ms, sink_ms: list[float] = sink_ms) -> None:
            map_ms.append(result.latency_ms)
            sink_ms.append((time.monotonic() - result.frame.capture_s) * 1e3)

        live_model = SaliencyModel(model.release, model.precision, 1)  # a live run closes its model
        run_pipeline(
            SteadySource(FRAMES, FPS), live_model, [], hooks=RunHooks(on_result=record), live=LiveSettings()
        )
        turns.append(
            tuple(
                float(percentile)
                for times_ms in (loop_ms, map_ms, sink_ms)
                for percentile in np.percentile(times_ms[WARM_UP_FRAMES:], [50, 99])
            )
        )
    model.close()
    loop_p50, loop_p99, map_p50, map_p99, sink_p50, sink_p99 = np.asarray(turns).T
    print_note(
        f"plain loop p50 {np.median(loop_p50):.3f} p99 {np.median(loop_p99):.3f} ms; capture to map "
        f"p50 {np.median(map_p50):.3f} p99 {np.median(map_p99):.3f} ms; capture to sinks "
        f"p50 {np.median(sink_p50):.3f} p99 {np.median(sink_p99):.3f} ms; added in the quietest turn "
        f"p50 {(map_p50 - loop_p50).min():.3f} p99 {(map_p99 - loop_p99).min():.3f} ms"
    )
    added_p50, added_p99 = float(np.median(map_p50 - loop_p50)), float(np.median(map_p99 - loop_p99))
    yield BenchRow("latency added by the pipeline, p50", added_p50, "ms", 0.10, at_least=False)
    yield BenchRow("latency added by the pipeline, p99", added_p99, "ms", 1.0, at_least=False)


def realtime_rows(clip: Path, folder: Path, seconds: float = 60) -> Iterator[BenchRow]:
    """Yield drops and latency of the default student on 1280x720 video at 30 fps in real time."""
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
    yield BenchRow(f"{label}: frames dropped", float(summary.dropped), "", 0, at_least=False)
    yield BenchRow(f"{label}: capture to map, p99", summary.latency_p99_ms, "ms", 20, at_least=False)


def memory_rows(folder: Path, frames: int = 10_000) -> Iterator[BenchRow]:
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
    yield BenchRow(f"{label}: memory grown after the first 1,000", growth_mb, "MB", 5, at_least=False)
    yield BenchRow(f"{label}: threads, files and sockets left", float(handles_left), "", 0, at_least=False)


def live_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield all rows, measured for as long as `make bench` does."""
    clip = write_clip(folder / "clip.mp4")
    yield from added_latency_rows()
    yield from realtime_rows(clip, folder)
    yield from memory_rows(folder)


def long_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the rows of real time and memory, measured for as long as a flight."""
    clip = write_clip(folder / "clip.mp4")
    yield from realtime_rows(clip, folder, 600)
    yield from memory_rows(folder, 100_000)


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
