"""Shipped students: size, CC, latency and speed-up of each precision, and the cost of the alignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edge.core.frames import Image
from edge.inference.runner_factory import open_runner
from edge.preprocessing.egomotion import align_frame
from edge.preprocessing.transform import Alignment, FramePreprocessor, Preprocessing
from edge.release.manifest import SHIPPED_RELEASES, load_release
from edge.simulation.world import World
from tests.bench.rows import BenchRow, time_in_turns

MIN_CC = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}
"""With PyTorch's fp32 maps, on the frames that each release was verified on."""


def student_rows(_folder: Path) -> Iterator[BenchRow]:
    """Yield rows of the streaming graphs on ONNX Runtime with one thread, batch 1."""
    for name in sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir()):
        release = load_release(name)
        rng, shape = np.random.default_rng(0), release.input_shape(1, "stream")
        feed = {
            input_name: rng.uniform(-1, 1, [side or 1 for side in shape]).astype(np.float32)
            for input_name in release.input_names("stream")
        }
        precisions = release.precisions("stream")
        runners = {precision: open_runner(release, precision, threads=1) for precision in precisions}
        calls: dict[str, Callable[[], object]] = {
            precision: partial(runner.infer, feed) for precision, runner in runners.items()
        }
        seconds = time_in_turns(calls, repeats=50, rounds=12)
        for precision in precisions:
            graph = release.graph(precision)
            label = f"{name} {precision}"
            yield BenchRow(f"{label}: size", release.path(graph).stat().st_size / 1e6, "MB")
            if graph.verified is not None:
                yield BenchRow(f"{label}: CC", graph.verified.mean_cc, "", MIN_CC[precision])
            yield BenchRow(f"{label}: latency", seconds[precision] * 1e3, "ms")
            yield BenchRow(f"{label}: speed-up", seconds["fp32"] / seconds[precision], "x")
    yield from alignment_rows()


def alignment_rows() -> Iterator[BenchRow]:
    """Yield the time of the alignment at 256 x 144, and of all preprocessing of 1280x720 frames with it."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    world = World(2, 1280, 720)
    images = [world.frame(index).image for index in range(4)]
    small = [Preprocessing(64, 64, alignment=Alignment(0.3)).resize(image) for image in images]
    calls: dict[str, Callable[[], object]] = {
        "first version": partial(align_by_ransac, small[0], small[3]),
        "now": partial(align_frame, small[0], small[3]),
    }
    for side in (64, 96, 128):
        preprocess = FramePreprocessor(Preprocessing(side, side, alignment=Alignment(0.3)), fps=10)
        calls[f"{side}x{side}"] = lambda preprocess=preprocess: [preprocess(image) for image in images]  # type: ignore[misc]
    seconds = time_in_turns(calls, repeats=20, rounds=12)
    cv2.setNumThreads(threads)
    yield BenchRow("alignment at 256x144: latency", seconds["now"] * 1e3, "ms")
    yield BenchRow(
        "alignment at 256x144: speed-up over its first version",
        seconds["first version"] / seconds["now"],
        "x",
        1.3,
    )
    for side in (64, 96, 128):
        label = f"1280x720 to {side}x{side}, aligned: latency of preprocessing"
        yield BenchRow(label, seconds[f"{side}x{side}"] / len(images) * 1e3, "ms")


def align_by_ransac(past: Image, now: Image) -> Image:
    """Align frames as version 0.1 did: full-size corners, RANSAC, and a warp of three channels."""
    before, after = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (past, now))
    corners = cv2.goodFeaturesToTrack(after, 60, 0.01, 9)
    tracked, status, _ = cv2.calcOpticalFlowPyrLK(
        after, before, corners, np.empty_like(corners), winSize=(11, 11), maxLevel=2
    )
    found = status[:, 0] == 1
    homography, _ = cv2.findHomography(corners[found], tracked[found], cv2.RANSAC, 1.5, maxIters=200)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (now.shape[1], now.shape[0])
    return cv2.warpPerspective(  # type: ignore[return-value]
        past, homography, size, dst=now.copy(), flags=flags, borderMode=cv2.BORDER_TRANSPARENT
    )
