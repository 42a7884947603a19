"""Speed of a whole run, and of the command as a process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import run_pipeline
from edge.simulation.world import World
from edge.sinks.files.jsonl import JsonlSink
from edge.sources.factory import open_source
from tests.bench.rows import BenchRow, print_rates, print_times, time_in_turns

CLIP_FRAMES = 300


def write_clip(path: Path) -> Path:
    """Write a video of 1280x720 (.mp4: MPEG-4, .avi: JPEGs) and return its path."""
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 30, (1280, 720))
    world = World(2, 1280, 720, 30)
    images = [world.frame(index).image for index in range(30)]
    for index in range(CLIP_FRAMES):
        writer.write(images[index % len(images)])
    writer.release()
    return path


def decoding_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the rate of a whole run over 1280x720 clips, relative to decoding alone.

    A JPEG takes longer to decode than a frame to prepare and infer. MPEG-4 does not, on two cores, so it has
    no bound: a run is no faster than its own work.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    model = SaliencyModel("skd-64", None, threads=1)
    for name, bound in (("clip.avi", 0.9), ("clip.mp4", None)):
        clip = write_clip(folder / name)

        def decode(clip: Path = clip) -> None:
            capture = cv2.VideoCapture(str(clip))
            while capture.read()[0]:
                pass
            capture.release()

        def run(clip: Path = clip) -> None:
            source = open_source(str(clip))
            run_pipeline(source, model, [])
            source.close()

        seconds = time_in_turns({"decoding": decode, "run": run}, repeats=1, rounds=15)
        print_rates(f"1280x720 {clip.suffix}", seconds, CLIP_FRAMES)
        label = f"1280x720 {clip.suffix}: rate of a run over decoding alone"
        yield BenchRow(label, seconds["decoding"] / seconds["run"], "x", bound)
    model.close()
    cv2.setNumThreads(threads)


def pipeline_rows(clip: Path, folder: Path) -> Iterator[BenchRow]:
    """Yield the time of a whole run at R = 64, relative to loops that only decode and resize.

    One loop resizes in one pass, as OpenCV offers it. The other one resizes as the run does, by halving
    first: it keeps two cores busy by itself, so inference adds to its time.
    """
    model = SaliencyModel("skd-64", None, threads=1)

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

    def run() -> None:
        source = open_source(str(clip))
        run_pipeline(source, model, [JsonlSink(folder / "o.jsonl")])
        source.close()

    calls = {"OpenCV's resize": resize_by_opencv, "our resize": resize_by_model, "run": run}
    seconds = time_in_turns(calls, repeats=1, rounds=9)
    print_times(f"{CLIP_FRAMES} frames of 1280x720 at R=64", seconds)
    label = "1280x720 at R=64: time of a run over decoding and"
    over_opencv = seconds["run"] / seconds["OpenCV's resize"]
    yield BenchRow(f"{label} OpenCV's one-pass resize", over_opencv, "x", 1.15, at_least=False)
    over_model = seconds["run"] / seconds["our resize"]
    yield BenchRow(f"{label} our own resize", over_model, "x", 2, at_least=False)


def process_rows(clip: Path, folder: Path) -> Iterator[BenchRow]:
    """Yield memory and start-up times of the command as a process."""
    code = (
        "import sys; from edge.cli.main import invoke; invoke(sys.argv[1:]); "
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    words = ["run", str(clip), "--maps", str(folder / "maps"), "--jsonl", str(folder / "o.jsonl")]
    peaks_mb, first_maps_s, helps_s = [], [], []
    for _ in range(5):
        start_s = time.perf_counter()
        output = subprocess.run(
            [sys.executable, "-c", code, *words, "--json"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        total_s = time.perf_counter() - start_s
        summary = json.loads(output[0])
        first_maps_s.append(total_s - summary["seconds"] + summary["first_map_s"])
        peaks_mb.append(int(output[1]) / 1024)
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edge.cli.main", "--help"], capture_output=True, check=True)
        helps_s.append(time.perf_counter() - start_s)
    peak_mb = statistics.median(peaks_mb)
    yield BenchRow("aerogaze run, 1280x720: peak memory", peak_mb, "MB", 300, at_least=False)
    label = "aerogaze run: start to first map, and end of the process"
    yield BenchRow(label, statistics.median(first_maps_s), "s", 2, at_least=False)
    yield BenchRow("aerogaze --help", statistics.median(helps_s), "s", 0.3, at_least=False)


def flight_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the rows that are measured on a clip of 1280x720."""
    clip = write_clip(folder / "clip.mp4")
    yield from pipeline_rows(clip, folder)
    yield from decoding_rows(folder)
    yield from process_rows(clip, folder)
