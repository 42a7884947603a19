"""Frames of a camera, a stream or a pipeline, captured by OpenCV."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import HangError, InputError
from edge.core.frames import Frame, Image, Source
from edge.sources.pixel_range import configured_range, measure_range, to_colour

GONE_S = 1.0
"""A source without a frame for this long is gone; within it, frames are lost or damaged."""
RETRY_S = 0.01
STEADY_STEPS = 8
"""Time steps between frames that gaps are judged by; all but one of them must be alike."""
STEP_TOLERANCE = 0.25
"""Largest relative difference from the median step; more is another frame rate, or none."""
FALLBACK_FPS = 30.0
OpenedSource = TypeVar("OpenedSource", bound=Source)


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used."""

    def isOpened(self) -> bool:  # noqa: N802
        """Return whether the capture is open."""

    def read(self) -> tuple[bool, Any]:
        """Return whether a frame was read, and the frame."""

    def get(self, property: int, /) -> float:  # noqa: A002
        """Return the value of a property."""

    def release(self) -> None:
        """Close the capture."""


@dataclass(frozen=True)
class CaptureClock:
    """Clock of a capture, which tests replace.

    Attributes:
        now: Returns monotonic time in seconds.
        sleep: Waits for a number of seconds.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep


class FrameGapDetector:
    """Counts the frames that are missing before a frame, by the time stamps of the frames.

    A decoder that skips damaged frames leaves such gaps. They can be counted only in a steady rhythm. When a
    camera slows down, as in the dark, at most two steps are mistaken for gaps; frames in bursts never are.
    """

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._steps: deque[float] = deque(maxlen=STEADY_STEPS)

    def count_missing(self, stamp_s: float) -> int:
        """Return the number of frames that are missing before the frame with this time stamp.

        It is 0 where the stamps do not tell: too few of them, not increasing, or of a new stream.
        """
        step = stamp_s - (stamp_s if self._last_s is None else self._last_s)
        self._last_s = stamp_s
        if not 0 < step < GONE_S:
            return 0
        steps = list(self._steps)
        self._steps.append(step)
        usual = median(steps) if len(steps) == STEADY_STEPS else 0.0
        outliers = sum(abs(other - usual) > STEP_TOLERANCE * usual for other in steps)
        frames = round(step / usual) if usual else 1
        is_multiple = abs(step - frames * usual) <= STEP_TOLERANCE * usual
        return frames - 1 if frames > 1 and is_multiple and outliers <= 1 else 0


class CaptureSource:
    """Frames from a capture, stamped on the monotonic clock by the driver if it can, else on arrival.

    Missing frames leave a gap in the frame indices. Where reads fail, as of damaged JPEGs, the gap is the
    number of frames due in that time; else it is what the capture's own time stamps show.

    Args:
        name: Name of the source.
        capture: The open capture.
        failure: Message of the error if there is no first frame.
        scale: How many times smaller than the source's picture the frames are, as in `Frame`.
        every_frame: The capture has an end, each of its frames counts, and its stamps are media time.
        clock: Clock of the capture; tests replace it.

    Raises:
        InputError: There is no first frame; or, while reading, the source is gone.
    """

    length: int | None = None

    def __init__(
        self,
        name: str,
        capture: Capture,
        failure: str,
        scale: int = 1,
        every_frame: bool = False,
        clock: CaptureClock | None = None,
    ) -> None:
        self._range = configured_range()
        self.name, self._capture, self._scale, self._every_frame = name, capture, scale, every_frame
        self._clock = clock or CaptureClock()
        first = self._read() if capture.isOpened() else None
        if first is None:
            capture.release()
            raise InputError(failure)
        self._first = first
        self.height, self.width = (side * scale for side in first.shape[:2])
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else FALLBACK_FPS

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames as they come; the first one, which is old by now, only if each frame counts."""
        index, last_frame_s = 0, self._clock.now()
        failing_since_s: float | None = None
        gaps = FrameGapDetector()
        if self._every_frame:
            yield Frame(0, 0.0, self._first, self._scale)
            index = 1
        while True:
            image = self._read()
            now_s = self._clock.now()
            if image is not None:
                stamp_s = 0.0 if self._every_frame else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                missing = gaps.count_missing(stamp_s)
                if failing_since_s is not None:
                    missing = max(1, missing, round((now_s - failing_since_s) * self.fps))
                    failing_since_s = None
                index += missing
                capture_s = index / self.fps if self._every_frame else _capture_time(stamp_s, now_s)
                yield Frame(index, capture_s, image, self._scale)
                last_frame_s = self._clock.now()
                index += 1
            elif self._every_frame:
                return
            elif now_s - last_frame_s > GONE_S:
                raise InputError(f"{self.name} gives no more frames")
            else:
                failing_since_s = now_s if failing_since_s is None else failing_since_s
                self._clock.sleep(RETRY_S)

    def close(self) -> None:
        """Close the device, connection or pipeline."""
        self._capture.release()

    def _read(self) -> Image | None:
        try:
            ok, image = self._capture.read()
        except cv2.error:  # some versions of OpenCV raise it for a damaged JPEG
            return None
        return self._to_8_bits(image) if ok and image is not None and image.size else None

    def _to_8_bits(self, image: NDArray[Any]) -> Image:
        if image.dtype == np.uint8:
            return to_colour(image)
        if self._range is None:
            self._range = measure_range([image])
        return self._range.to_8_bits(image)


def _capture_time(stamp_s: float, now_s: float) -> float:
    """Return the driver's stamp if it is on the monotonic clock, as V4L2's is, else the time of arrival."""
    return stamp_s if now_s - GONE_S < stamp_s <= now_s else now_s


def open_with_timeout(seconds: float, open_: Callable[[], OpenedSource], failure: str) -> OpenedSource:
    """Open a source on a thread of its own, which is abandoned if it takes too long.

    Args:
        seconds: Time limit.
        open_: Opens the source.
        failure: Message of the error when the time is over.

    Raises:
        InputError: The source cannot be opened.
        HangError: It was not open in time.
    """
    results: queue.SimpleQueue[OpenedSource | Exception] = queue.SimpleQueue()
    abandoned = threading.Event()

    def close_late_source() -> None:
        """Close a source that was opened too late, on the thread that takes it from the queue."""
        with suppress(queue.Empty):
            late = results.get_nowait()
            if not isinstance(late, Exception):
                late.close()

    def work() -> None:
        try:
            results.put(open_())
        except Exception as error:
            results.put(error)
        # Both threads look, so that a source that arrives just when the time is over is closed, too.
        if abandoned.is_set():
            close_late_source()

    thread = threading.Thread(target=work, name="aerogaze-open", daemon=True)
    thread.start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        abandoned.set()
        close_late_source()
        raise HangError(f"{failure} (no frame in {seconds:g} s)", thread) from None
    if isinstance(result, Exception):
        try:
            raise result
        finally:
            del result  # its traceback refers to this frame: a circle, which would keep what it refers to
    return result


def open_capture(target: str | int, backend: int, timeout_ms: int | None = None) -> cv2.VideoCapture:
    """Open a capture.

    Args:
        target: Device number, URL or pipeline.
        backend: OpenCV's backend, such as `cv2.CAP_V4L2`.
        timeout_ms: Time limit of a read, and a third of the one for opening; None where the backend has none.
    """
    if timeout_ms is not None:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 3 * timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(target, backend, limits)
    return cv2.VideoCapture(target, backend)


def has_backend(name: str) -> bool:
    """Return whether this OpenCV was built with a backend, "GStreamer" or "v4l/v4l2"."""
    return re.search(rf"{re.escape(name)}:\s+YES", cv2.getBuildInformation()) is not None


def parse_mode(text: str, source: str) -> tuple[int, int, int | None]:
    """Return width, height and, if given, frame rate of a mode such as 1280x720@30.

    Args:
        text: The mode.
        source: Name of the source, for the error.

    Raises:
        InputError: The text is no mode.
    """
    match = re.fullmatch(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})(?:@([1-9][0-9]{0,2}))?", text)
    if match is None:
        raise InputError(f"no camera {source!r}; expected a mode as WIDTHxHEIGHT[@FPS], such as 1280x720@30")
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None


def smaller_sizes(
    sizes: Sequence[tuple[int, int]], min_size: tuple[int, int], full_size: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the sizes from `min_size` to less than `full_size` with its aspect ratio, the smallest first."""
    return sorted(
        (width, height)
        for width, height in sizes
        if width >= min_size[0]
        and height >= min_size[1]
        and width < full_size[0]
        and abs(width * full_size[1] / (height * full_size[0]) - 1) < 0.02
    )
