"""Speed of a whole run, and of the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import cv2

from edge.core.frames import Image
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import run_pipeline
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.simulation.world import World
from edge.sinks.files.jsonl import JsonlSink
from edge.sinks.sink import Sink
from edge.sources.factory import open_source
from tests.bench.measurement.row import Benchmark, Contestant, Row, read_out, timed

CLIP_FRAMES = 60
"""Frames of a clip whose whole run is timed."""
SUFFIXES = ".avi", ".mp4"
"""Clips: JPEGs, and MPEG-4."""
RATE_CLIP_FRAMES = 300
"""Frames of a clip that gives a rate: so many that the start and the end of the run hardly count."""


def benchmarks() -> Sequence[Benchmark]:
    """Return the benchmarks on clips of 1280x720.

    A JPEG takes longer to decode than a frame to prepare and infer, so decoding limits the rate of a run.
    MPEG-4 does not, on two cores.
    """
    label = "1280x720 at R=64: time of a run over decoding and"
    pipeline = (
        Row(f"{label} OpenCV's one-pass resize", "run", "resize by OpenCV", bound=1.15, at_least=False),
        Row(f"{label} our own resize", "run", "resize by the model", bound=2, at_least=False),
    )
    memory = "aerogaze run, 1280x720: peak memory"
    process = (
        Row(memory, "memory", unit="MB", bound=300, at_least=False),
        Row(
            "aerogaze run: start to first map, and end of the process",
            "first map",
            unit="s",
            bound=2,
            at_least=False,
        ),
    )
    help_row = Row("aerogaze --help", "help", unit="s", bound=0.3, at_least=False)
    return (
        Benchmark("pipeline", 22, pipeline, _open_pipeline),
        *(
            Benchmark(
                f"decoding {suffix}",
                22,
                (
                    Row(
                        f"1280x720 {suffix}: rate of a run over decoding alone",
                        "decoding",
                        "run",
                        bound=bound,
                        goal=goal,
                    ),
                ),
                partial(_open_decoding, suffix),
            )
            for suffix, bound, goal in zip(SUFFIXES, (0.75, 0.35), (0.9, 0.75), strict=True)
        ),
        Benchmark("added", 16, _added_rows(), _open_added),
        Benchmark("process", 40, process, _open_process),
        Benchmark("help", 12, (help_row,), _open_help),
    )


def _added_rows() -> list[Row]:
    """Return the processor time that a run adds to decoding, without outputs and with JSON lines."""
    label = "default student: processor time that a run adds to decoding 1280x720"
    return [
        *(
            Row(f"{label} {suffix}, per frame", suffix, unit="ms", scale=1e3, at_least=False, goal=0.8)
            for suffix in SUFFIXES
        ),
        Row(f"{label} .mp4, with --jsonl", "jsonl", unit="ms", scale=1e3, at_least=False),
    ]


def write_clip(path: Path, frames: int = CLIP_FRAMES) -> Path:
    """Write a video of 1280x720 (.mp4: MPEG-4, .avi: JPEGs) and return its path."""
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 30, (1280, 720))
    images = _images()
    for index in range(frames):
        writer.write(images[index % len(images)])
    writer.release()
    return path


@cache
def _images() -> list[Image]:
    world = World(2, 1280, 720, 30)
    return [world.frame(index).image for index in range(30)]


def _run(clip: Path, model: SaliencyModel, make_sinks: Callable[[], list[Sink]] = list) -> None:
    source = open_source(str(clip))
    run_pipeline(source, model, make_sinks())
    source.close()


def _decode(clip: Path) -> None:
    capture = cv2.VideoCapture(str(clip))
    while capture.read()[0]:
        pass
    capture.release()


@contextmanager
def _open_decoding(suffix: str, folder: Path) -> Iterator[Mapping[str, Contestant]]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    model, clip = (
        SaliencyModel("skd-64", None, threads=1),
        write_clip(folder / f"clip{suffix}", RATE_CLIP_FRAMES),
    )

    try:
        yield {
            "decoding": timed(partial(_decode, clip), comparable=False),
            "run": timed(lambda: _run(clip, model)),
        }
    finally:
        model.close()
        cv2.setNumThreads(threads)


@contextmanager
def _open_added(folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open what a run adds to decoding, as `aerogaze run` does it by default: the difference of two turns."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    model = SaliencyModel(None, None, threads=1)
    clips = {suffix: write_clip(folder / f"clip{suffix}") for suffix in SUFFIXES}

    def read(clip: Path, make_sinks: Callable[[], list[Sink]] = list) -> float:
        """Return seconds per frame."""
        decoding_s = _processor_time(partial(_decode, clip))
        return (_processor_time(partial(_run, clip, model, make_sinks)) - decoding_s) / CLIP_FRAMES

    def analyzing_sink() -> list[Sink]:
        return [JsonlSink(folder / "o.jsonl", MapAnalyzer(model.release.score))]

    try:
        yield {
            # What is left of the difference on a busy machine may be negative: no ratio of two commits.
            **{suffix: read_out(partial(read, clip), comparable=False) for suffix, clip in clips.items()},
            "jsonl": read_out(partial(read, clips[".mp4"], analyzing_sink), comparable=False),
        }
    finally:
        model.close()
        cv2.setNumThreads(threads)


def _processor_time(call: Callable[[], object]) -> float:
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


@contextmanager
def _open_pipeline(folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open a run at R = 64, and loops that only decode and resize.

    One loop resizes in one pass, as OpenCV offers it. The other one resizes as the run does, by halving
    first: it keeps two cores busy by itself, so inference adds to its time.
    """
    model, clip = SaliencyModel("skd-64", None, threads=1), write_clip(folder / "clip.mp4")

    def resize_by_opencv() -> None:
        capture = cv2.VideoCapture(str(clip))
        while (image := capture.read()[1]) is not None:
            cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        capture.release()

    def resize_by_model() -> None:
        source = open_source(str(clip))
        for frame in source:
            model.prepare(frame.image)
        source.close()

    yield {
        "resize by OpenCV": timed(resize_by_opencv, comparable=False),
        "resize by the model": timed(resize_by_model),
        "run": timed(lambda: _run(clip, model, lambda: [JsonlSink(folder / "o.jsonl")])),
    }
    model.close()


@contextmanager
def _open_process(folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Start the command: a process gives its peak memory and the time to its first map."""
    clip = write_clip(folder / "clip.mp4")
    code = (
        "import sys; from edge.cli.main import invoke; invoke(sys.argv[1:]); "
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    words = ["run", str(clip), "--maps", str(folder / "maps"), "--jsonl", str(folder / "o.jsonl"), "--json"]
    unread: dict[str, deque[float]] = {"memory": deque(), "first map": deque()}

    def read(name: str) -> float:
        """Return a value of a process that gave the other one before, or start a process."""
        if not unread[name]:
            start_s = time.perf_counter()
            output = subprocess.run(
                [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            total_s, summary = time.perf_counter() - start_s, json.loads(output[0])
            unread["memory"].append(int(output[1]) / 1024)
            unread["first map"].append(total_s - summary["seconds"] + summary["first_map_s"])
        return unread[name].popleft()

    yield {name: read_out(partial(read, name)) for name in unread}


@contextmanager
def _open_help(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    def start() -> float:
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edge.cli.main", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start_s

    yield {"help": read_out(start)}
