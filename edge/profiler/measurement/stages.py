"""What a frame costs beside the engine: preprocessing, postprocessing, and the GPU's own times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from edge.core.frames import Frame, Image
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.peaks import find_peaks
from edge.postprocessing.result import Result
from edge.profiler.measurement.candidate import Candidate, InputFeed
from edge.release.manifest import Release

CALLS = 60
WARM = 10
FRAME = (1280, 720)


def pre_and_post_ms(release: Release, size: tuple[int, int]) -> dict[str, float]:
    """Return the median milliseconds of what `aerogaze run` does around the engine, for frames of `size`.

    Preprocessing: a frame (H, W, 3), BGR, to the graph's input. Postprocessing: peaks, the map
    smoothed along the camera's motion, its regions found and followed. Frames are the golden ones, stretched.
    """
    frames, maps = release.golden()
    if release.raw_frame is not None:  # takes no other
        size = release.raw_frame.width, release.raw_frame.height
    images: list[Image] = [
        np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8) for frame in frames
    ]
    prepare, observe = release.prepare, MapAnalyzer()
    count = len(images)

    def look(index: int) -> None:
        frame = Frame(index, index / 30, images[index % count])
        saliency = maps[index % count]
        find_peaks(saliency)
        observe(Result(frame, saliency, 0.0))

    return {
        "preprocess_ms": _median_ms(lambda index: prepare(images[index % count])),
        "postprocess_ms": _median_ms(look),
    }


def gpu_ms(contender: Candidate, feeds: Sequence[InputFeed]) -> dict[str, float] | None:
    """Return the medians of enqueue, copy in, inference and copy out; None without a GPU of ours."""
    if contender.open_timed is None:
        return None
    runner = contender.open_timed()
    try:
        timings = []
        for index in range(WARM + CALLS):
            runner.infer(feeds[index % len(feeds)])
            timings.append(runner.timing)  # type: ignore[attr-defined]
    finally:
        runner.close()
    medians = np.median(np.asarray(timings[WARM:], np.float64), axis=0)
    names = ("enqueue_ms", "copy_in_ms", "gpu_ms", "copy_out_ms")
    return dict(zip(names, map(float, medians), strict=True))


def _median_ms(call: Callable[[int], object]) -> float:
    ns = []
    for index in range(WARM + CALLS):
        before = time.perf_counter_ns()
        call(index)
        ns.append(time.perf_counter_ns() - before)
    return float(np.median(ns[WARM:])) / 1e6
