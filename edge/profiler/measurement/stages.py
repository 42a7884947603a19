"""Cost of a frame outside the engine call: preprocessing, postprocessing, and the times on the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from edge.core.frames import Frame, Image
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.peaks import find_peaks
from edge.postprocessing.result import Result
from edge.profiler.measurement.candidate import Candidate, InputFeed
from edge.release.release import Release

CALLS = 60
WARM_UP_CALLS = 10
DEFAULT_FRAME_SIZE = (1280, 720)


def time_pre_and_postprocessing(release: Release, size: tuple[int, int]) -> dict[str, float]:
    """Return the median milliseconds of the work that `aerogaze run` does around the engine.

    Preprocessing turns a frame (H, W, 3), BGR, into the inputs of the stream form, with the alignment of an
    aligned student. Postprocessing finds the peaks,
    smooths the map along the camera's motion, and finds and tracks its regions. The frames are the golden
    ones, resized.

    Args:
        release: The release.
        size: Width and height of the frames; a release for raw frames of one size replaces it.
    """
    frames, maps = release.load_golden()
    if release.raw_frame is not None:
        size = release.raw_frame.width, release.raw_frame.height
    images: list[Image] = [
        np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8) for frame in frames
    ]
    prepare, analyze = release.stream_preprocessor(NOMINAL_FPS), MapAnalyzer(release.score)
    count = len(images)

    def postprocess(index: int) -> None:
        frame = Frame(index, index / 30, images[index % count])
        saliency = maps[index % count]
        find_peaks(saliency)
        analyze(Result(frame, saliency, 0.0))

    return {
        "preprocess_ms": _median_ms(lambda index: prepare(images[index % count])),
        "postprocess_ms": _median_ms(postprocess),
    }


def time_gpu_stages(candidate: Candidate, feeds: Sequence[InputFeed]) -> dict[str, float] | None:
    """Return the median milliseconds of enqueue, copy in, inference and copy out; None without a GPU."""
    if candidate.open_timed is None:
        return None
    runner = candidate.open_timed()
    try:
        timings = []
        for index in range(WARM_UP_CALLS + CALLS):
            runner.infer(feeds[index % len(feeds)])
            timings.append(runner.timing)  # type: ignore[attr-defined]
    finally:
        runner.close()
    medians = np.median(np.asarray(timings[WARM_UP_CALLS:], np.float64), axis=0)
    names = ("enqueue_ms", "copy_in_ms", "gpu_ms", "copy_out_ms")
    return dict(zip(names, map(float, medians), strict=True))


def _median_ms(call: Callable[[int], object]) -> float:
    times_ns = []
    for index in range(WARM_UP_CALLS + CALLS):
        start_ns = time.perf_counter_ns()
        call(index)
        times_ns.append(time.perf_counter_ns() - start_ns)
    return float(np.median(times_ns[WARM_UP_CALLS:])) / 1e6
