"""Cost of preprocessing 1280x720 frames, of the resizing, and of the alignment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edge.core.frames import Image
from edge.preprocessing.area_resize import resize_by_area
from edge.preprocessing.egomotion import align_frame
from edge.preprocessing.transform import Alignment, FramePreprocessor, Preprocessing
from edge.simulation.world import World
from tests.bench.measurement.row import Benchmark, Contestant, Row, timed

SIDES = (64, 96, 128)
SPEED_UPS = {
    ((1280, 720), (256, 144)): 1.3,
    ((1920, 1080), (256, 144)): 2.0,
    ((256, 144), (64, 64)): 1.5,
}
"""Least speed-up of the resizing over OpenCV's, by the sizes before and after: to the size at which frames
are aligned, and from it to the default student's."""


def benchmarks() -> Sequence[Benchmark]:
    """Return preprocessing with and without alignment, and its parts beside OpenCV and the first version."""
    rows = [Row("1280x720 to 64x64: latency of preprocessing", "plain", unit="ms", scale=1e3, at_least=False)]
    for side in SIDES:
        label = f"1280x720 to {side}x{side}, aligned: latency of preprocessing"
        rows.append(Row(label, f"aligned {side}", unit="ms", scale=1e3, at_least=False))
    rows.append(Row("alignment at 256x144: latency", "alignment", unit="ms", scale=1e3, at_least=False))
    label = "alignment at 256x144: speed-up over its first version"
    rows.append(Row(label, "first version", "alignment", bound=1.3))
    resizing = [
        Row(
            f"{_name_sizes(sizes)}: speed-up over OpenCV",
            f"OpenCV {_name_sizes(sizes)}",
            _name_sizes(sizes),
            bound=bound,
        )
        for sizes, bound in SPEED_UPS.items()
    ]
    return Benchmark("1280x720", 15, rows, _open), Benchmark("resizing", 8, resizing, _open_resizing)


@contextmanager
def _open(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as `aerogaze run` does
    world = World(2, 1280, 720)
    images = [world.frame(index).image for index in range(4)]
    small = [Preprocessing(64, 64, alignment=Alignment(0.3)).resize(image) for image in images]
    preprocessors = {"plain": FramePreprocessor(Preprocessing(64, 64), fps=10)}
    for side in SIDES:
        settings = Preprocessing(side, side, alignment=Alignment(0.3))
        preprocessors[f"aligned {side}"] = FramePreprocessor(settings, fps=10)

    def prepare(preprocess: FramePreprocessor) -> None:
        for image in images:
            preprocess(image)

    try:
        yield {
            **{
                name: timed(partial(prepare, preprocess), work=len(images), clock=time.process_time)
                for name, preprocess in preprocessors.items()
            },
            "alignment": timed(partial(align_frame, small[0], small[3]), clock=time.process_time),
            "first version": timed(
                partial(align_by_ransac, small[0], small[3]), comparable=False, clock=time.process_time
            ),
        }
    finally:
        cv2.setNumThreads(threads)


@contextmanager
def _open_resizing(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    contestants = {}
    for before, after in SPEED_UPS:
        image = World(2, *before).frame(0).image
        ours = partial(resize_by_area, image, *after)
        opencv = partial(cv2.resize, image, after, interpolation=cv2.INTER_AREA)
        name = _name_sizes((before, after))
        contestants[name] = timed(ours, clock=time.process_time)
        contestants[f"OpenCV {name}"] = timed(opencv, comparable=False, clock=time.process_time)
    try:
        yield contestants
    finally:
        cv2.setNumThreads(threads)


def _name_sizes(sizes: tuple[tuple[int, int], tuple[int, int]]) -> str:
    """Return the sizes before and after as text."""
    return " to ".join(f"{width}x{height}" for width, height in sizes)


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
