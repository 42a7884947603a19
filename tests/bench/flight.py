"""A whole run, and the command as a process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2

from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import run_pipeline
from edge.simulation.world import World
from edge.sinks.files.jsonl import JsonlSink
from edge.sources.factory import open_source
from tests.bench.rows import Row, turns


def made_clip(path: Path) -> Path:
    """Write 300 frames of 1280x720 as a video (.mp4: MPEG-4, .avi: JPEGs), and return its place."""
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, 30, (1280, 720))
    world = World(2, 1280, 720, 30)
    images = [world.frame(index).image for index in range(30)]
    for _ in range(10):
        for image in images:
            writer.write(image)
    writer.release()
    return path


def decoding_rows(folder: Path) -> list[Row]:
    """A whole run's rate over 1280x720 clips against decoding them and nothing else.

    JPEGs take longer to decode than a frame to prepare and run; MPEG-4 does not, on two cores, and so has no
    bound: a run cannot be faster than what it adds.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    model = SaliencyModel(None, None, threads=1)
    rows = []
    for name, bound in (("clip.avi", 0.9), ("clip.mp4", None)):
        clip = made_clip(folder / name)

        def decode(clip: Path = clip) -> None:
            capture = cv2.VideoCapture(str(clip))
            while capture.read()[0]:
                pass
            capture.release()

        def whole(clip: Path = clip) -> None:
            source = open_source(str(clip))
            run_pipeline(source, model, [])
            source.close()

        seconds = turns({"decode": decode, "whole": whole}, calls=1, rounds=15)
        print(name, {what: f"{300 / value:.0f} frames/s" for what, value in seconds.items()})
        what = f"1280x720 {clip.suffix}: a run's rate over decoding's alone"
        rows.append(Row(what, seconds["decode"] / seconds["whole"], "x", bound))
    model.close()
    cv2.setNumThreads(threads)
    return rows


def pipeline_rows(clip: Path, folder: Path) -> list[Row]:
    """A whole run at R = 64 over a 1280x720 clip, against loops that decode and resize only.

    `bare` is the loop that OpenCV offers: one area resize. `prepared` is ours, which halves first, and
    so is a harder mark: it keeps two cores busy by itself, and inference comes on top.
    """
    model = SaliencyModel(None, None, threads=1)

    def bare() -> None:
        capture = cv2.VideoCapture(str(clip))
        while (image := capture.read()[1]) is not None:
            cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        capture.release()

    def prepared() -> None:
        source = open_source(str(clip))
        for frame in source:
            model.prepare(frame.image)
        source.close()

    def whole() -> None:
        source = open_source(str(clip))
        run_pipeline(source, model, [JsonlSink(folder / "o.jsonl")])
        source.close()

    seconds = turns({"bare": bare, "prepared": prepared, "whole": whole}, calls=1, rounds=9)
    print({name: f"{value:.2f} s" for name, value in seconds.items()})
    what = "1280x720 at R=64: run over decoding and"
    return [
        Row(f"{what} OpenCV's one-pass resize", seconds["whole"] / seconds["bare"], "x", 1.15, False),
        Row(f"{what} our own resize", seconds["whole"] / seconds["prepared"], "x", 2, False),
    ]


def process_rows(clip: Path, folder: Path) -> list[Row]:
    """The command as a process: memory, time to the first map, time of --help."""
    code = (
        "import sys; from edge.cli.main import invoke; invoke(sys.argv[1:]); "
        "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    )
    words = ["run", str(clip), "--maps", str(folder / "maps"), "--jsonl", str(folder / "o.jsonl")]
    peaks, firsts, helps = [], [], []
    for _ in range(5):
        before = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-c", code, *words, "--json"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        total = time.perf_counter() - before
        summary = json.loads(told[0])
        firsts.append(total - summary["seconds"] + summary["first_map_s"])
        peaks.append(int(told[1]) / 1024)
        before = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edge.cli.main", "--help"], capture_output=True, check=True)
        helps.append(time.perf_counter() - before)
    return [
        Row("aerogaze run, 1280x720: peak memory", statistics.median(peaks), "MB", 300, False),
        Row(
            "aerogaze run: start to first map, end of process included",
            statistics.median(firsts),
            "s",
            2,
            False,
        ),
        Row("aerogaze --help", statistics.median(helps), "s", 0.3, False),
    ]
