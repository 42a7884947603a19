"""What the pipeline costs: added latency, a minute in real time, memory and what is left behind.

`python -m tests.bench long` takes ten minutes in real time, and 100,000 frames.
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
from edge.pipeline.run import LiveSettings, RunSummary, run_pipeline
from edge.postprocessing.result import Result
from edge.sinks.files.jsonl import JsonlSink
from edge.sources.realtime_playback import PacedSource
from edge.sources.video_file import VideoSource
from tests.bench.flight import made_clip
from tests.bench.rows import Row

FPS = 100.0
TURNS, FRAMES, WARM = 12, 150, 20


class Steady:
    """Frames of the student's size, `fps` a second (None: as fast as they are taken)."""

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
        """Nothing is held."""


class Looped:
    """A video file again and again, for `frames` frames."""

    def __init__(self, clip: Path, frames: int) -> None:
        first = VideoSource(clip)
        self.name, self.width, self.height, self.fps = first.name, first.width, first.height, first.fps
        self.length: int | None = frames
        self._clip, self._frames = clip, frames
        first.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, with media time that goes on."""
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
        """Nothing is held."""


def added_rows() -> list[Row]:
    """Capture to map, less preparing and inferring by hand: at one pace, in turns, a difference a turn.

    The frames are of the student's size, so that what is left is the pipeline's own: checks, and threads
    that wake each other. On a busy machine these wait for a core: the quietest turn is printed too.
    """
    model = SaliencyModel(None, None, 1)
    turns: list[tuple[float, ...]] = []
    for _ in range(TURNS):
        bare: list[float] = []
        whole: list[float] = []
        told: list[float] = []
        model.reset()
        for frame in Steady(FRAMES, FPS):
            model.infer(model.prepare(frame.image))
            bare.append((time.monotonic() - frame.capture_s) * 1e3)

        def take(result: Result, whole: list[float] = whole, told: list[float] = told) -> None:
            whole.append(result.latency_ms)
            told.append((time.monotonic() - result.frame.capture_s) * 1e3)

        opened = SaliencyModel(model.release, model.precision, 1)  # a live run closes its model
        run_pipeline(Steady(FRAMES, FPS), opened, [], on_result=take, live=LiveSettings())
        turns.append(
            tuple(float(q) for ms in (bare, whole, told) for q in np.percentile(ms[WARM:], [50, 99]))
        )
    model.close()
    bare50, bare99, whole50, whole99, told50, told99 = np.asarray(turns).T
    print(
        f"by hand p50 {np.median(bare50):.3f} p99 {np.median(bare99):.3f} ms; capture to map "
        f"p50 {np.median(whole50):.3f} p99 {np.median(whole99):.3f} ms; told to sinks "
        f"p50 {np.median(told50):.3f} p99 {np.median(told99):.3f} ms; added in the quietest turn "
        f"p50 {(whole50 - bare50).min():.3f} p99 {(whole99 - bare99).min():.3f} ms"
    )
    return [
        Row("added by the pipeline, p50", float(np.median(whole50 - bare50)), "ms", 0.10, at_least=False),
        Row("added by the pipeline, p99", float(np.median(whole99 - bare99)), "ms", 1.0, at_least=False),
    ]


def realtime_rows(clip: Path, folder: Path, seconds: float = 60) -> list[Row]:
    """The default student on 1280x720 video at 30 fps in real time: decoding, resizing, JSON lines."""
    model = SaliencyModel(None, None, 1)
    source = PacedSource(Looped(clip, round(seconds * 30)))
    memory: list[float] = []

    def watch(result: Result) -> None:
        if result.frame.index % 1000 == 999:
            memory.append(resident_mb())

    summary = run_pipeline(
        source, model, [JsonlSink(folder / "live.jsonl")], on_result=watch, live=LiveSettings()
    )
    print(
        f"real time, {seconds:g} s: {summary.frames} frames, {summary.dropped} dropped, capture to map "
        f"p50 {summary.latency_p50_ms:.2f} p99 {summary.latency_p99_ms:.2f} ms, faults {summary.faults}, "
        f"resident {memory[0]:.1f} to {memory[-1]:.1f} MB"
    )
    what = f"1280x720 at 30 fps in real time, {seconds:g} s"
    return [
        Row(f"{what}: frames dropped", float(summary.dropped), "", 0, at_least=False),
        Row(f"{what}: capture to map, p99", summary.latency_p99_ms, "ms", 20, at_least=False),
    ]


def memory_rows(folder: Path, frames: int = 10_000) -> list[Row]:
    """Growth of resident memory after the first 1,000 frames, and what a run leaves behind."""
    model = SaliencyModel(None, None, 1)
    threads, files = threading.active_count(), open_files()
    memory: list[float] = []

    def watch(result: Result) -> None:
        if result.frame.index % 1000 == 999:
            memory.append(resident_mb())

    def once() -> RunSummary:
        return run_pipeline(Steady(frames, None), model, [JsonlSink(folder / "m.jsonl")], on_result=watch)

    summary = once()
    left = threading.active_count() - threads + open_files() - files
    model.close()
    print(f"{summary.frames} frames at {summary.fps:.0f} fps: {memory[0]:.1f} to {memory[-1]:.1f} MB")
    what = f"{frames} frames"
    return [
        Row(f"{what}: memory grown after the first 1,000", max(memory) - memory[0], "MB", 5, at_least=False),
        Row(f"{what}: threads, files and sockets left", float(left), "", 0, at_least=False),
    ]


def live_rows(folder: Path) -> list[Row]:
    """All of these, as `make bench` has them."""
    clip = made_clip(folder / "clip.mp4")
    return [*added_rows(), *realtime_rows(clip, folder), *memory_rows(folder)]


def long_rows(folder: Path) -> list[Row]:
    """The same for as long as a flight."""
    clip = made_clip(folder / "clip.mp4")
    return [*realtime_rows(clip, folder, 600), *memory_rows(folder, 100_000)]


def resident_mb() -> float:
    """Return this process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Return how many files and sockets are open."""
    return len(os.listdir("/proc/self/fd"))
