"""A camera, stream or pipeline that OpenCV captures from."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, Protocol

import cv2

from edge.core.errors import HangError, InputError
from edge.core.frames import Frame, Image

GONE_S = 1.0
"""A source that gives nothing for as long is gone; shorter, its frames were lost or damaged."""
RETRY_S = 0.01
STEADY = 8
"""Steps between frames' stamps, all but one of them alike, from which a gap among them can be told."""
ALIKE = 0.25
"""Of the usual step: more off is another rate, or no rate."""
FALLBACK_FPS = 30.0


class Capture(Protocol):
    """What is used of `cv2.VideoCapture`."""

    def isOpened(self) -> bool:  # noqa: N802
        """Say whether there is something to read."""

    def read(self) -> tuple[bool, Any]:
        """Return whether a frame came, and it."""

    def get(self, property: int, /) -> float:  # noqa: A002
        """Return what a property is."""

    def release(self) -> None:
        """Let go."""


class FrameGapDetector:
    """Tells by the stamps of frames how many are missing before one, as where a decoder leaves out damage.

    Only a steady rhythm tells: of a camera that slows down, as in the dark, two steps at most are taken for
    gaps; where frames come in bursts none is.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._steps: deque[float] = deque(maxlen=STEADY)

    def missing(self, stamp_s: float) -> int:
        """Return how many; none where the stamps tell nothing: too few of them, not rising, a new stream."""
        step, self._last = stamp_s - (stamp_s if self._last is None else self._last), stamp_s
        if not 0 < step < GONE_S:
            return 0
        steps = list(self._steps)
        self._steps.append(step)
        usual = median(steps) if len(steps) == STEADY else 0.0
        unlike = sum(abs(one - usual) > ALIKE * usual for one in steps)
        due = round(step / usual) if usual else 1
        whole = abs(step - due * usual) <= ALIKE * usual
        return due - 1 if due > 1 and whole and unlike <= 1 else 0


class CaptureSource:
    """Frames from a capture, stamped on the monotonic clock: by the driver where it does so, else on arrival.

    Frames that are missing leave a gap in the ids, as of a damaged JPEG: where reads fail, of the frames due
    meanwhile; else of those that the capture's own stamps lack. `scale`: as of `Frame`. `every`: what is
    captured has an end, and its stamps are media time.

    Raises:
        InputError: it gives no first frame; `missing` is said. While reading: it is gone.
    """

    length: int | None = None

    def __init__(
        self, name: str, capture: Capture, missing: str, scale: int = 1, every: bool = False
    ) -> None:
        self.name, self._capture, self._scale, self._every = name, capture, scale, every
        first = self._read() if capture.isOpened() else None
        if first is None:
            capture.release()
            raise InputError(missing)
        self._first = first
        self.height, self.width = (side * scale for side in first.shape[:2])
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else FALLBACK_FPS

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames as they come: the first one too where every one counts; else it is old by now."""
        index, seen = 0, time.monotonic()
        failing_s: float | None = None
        rhythm = FrameGapDetector()
        if self._every:
            yield Frame(0, 0.0, self._first, self._scale)
            index = 1
        while True:
            image = self._read()
            now = time.monotonic()
            if image is not None:
                told_s = 0.0 if self._every else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                missing = rhythm.missing(told_s)
                if failing_s is not None:
                    missing = max(1, missing, round((now - failing_s) * self.fps))
                    failing_s = None
                index += missing
                stamp_s = index / self.fps if self._every else _believed(told_s, now)
                yield Frame(index, stamp_s, image, self._scale)
                seen = time.monotonic()
                index += 1
            elif self._every:
                return
            elif now - seen > GONE_S:
                raise InputError(f"{self.name} gives no more frames")
            else:
                failing_s = now if failing_s is None else failing_s
                time.sleep(RETRY_S)

    def close(self) -> None:
        """Let go of the device, connection or pipeline."""
        self._capture.release()

    def _read(self) -> Image | None:
        try:
            ok, image = self._capture.read()
        except cv2.error:  # a damaged JPEG, in some versions
            return None
        return image if ok and image is not None and image.size else None


def _believed(told_s: float, now: float) -> float:
    """Return the driver's stamp if it is of the monotonic clock, as V4L2's, else the arrival."""
    return told_s if now - GONE_S < told_s <= now else now


def open_with_timeout(seconds: float, open_: Callable[[], CaptureSource], missing: str) -> CaptureSource:
    """Open a source on a thread of its own, which is left behind where that takes too long.

    Raises:
        InputError: as opening does.
        HangError: it took longer than `seconds`; `missing` is said.
    """
    done: queue.SimpleQueue[CaptureSource | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def let_go() -> None:
        """Close what came too late; whoever takes it out of the queue does."""
        with suppress(queue.Empty):
            late = done.get_nowait()
            if isinstance(late, CaptureSource):
                late.close()

    def work() -> None:
        try:
            done.put(open_())
        except Exception as error:
            done.put(error)
        if given_up.is_set():
            let_go()

    thread = threading.Thread(target=work, name="aerogaze-open", daemon=True)
    thread.start()
    try:
        found = done.get(timeout=seconds)
    except queue.Empty:
        given_up.set()
        let_go()
        raise HangError(f"{missing} (no frame in {seconds:g} s)", thread) from None
    if isinstance(found, Exception):
        raise found
    return found


def open_capture(target: str | int, backend: int, timeout_ms: int | None = None) -> cv2.VideoCapture:
    """Open a capture; with a limit for opening and for each read where the backend has such."""
    if timeout_ms is not None:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 3 * timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        return cv2.VideoCapture(target, backend, limits)
    return cv2.VideoCapture(target, backend)


def has_backend(backend: str) -> bool:
    """Say whether this OpenCV was built with "GStreamer" or "v4l/v4l2"."""
    return re.search(rf"{re.escape(backend)}:\s+YES", cv2.getBuildInformation()) is not None


def parse_mode(text: str, what: str) -> tuple[int, int, int | None]:
    """Read a mode as 1280x720@30: width, height and, if given, frames a second.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"([1-9]\d{1,4})x([1-9]\d{1,4})(?:@([1-9]\d{0,2}))?", text)
    if found is None:
        raise InputError(f"no camera {what!r}; expected a mode as WIDTHxHEIGHT[@FPS], like 1280x720@30")
    return int(found[1]), int(found[2]), int(found[3]) if found[3] else None


def smaller_sizes(
    sizes: Sequence[tuple[int, int]], wanted: tuple[int, int], like: tuple[int, int]
) -> list[tuple[int, int]]:
    """Return the sizes that have `wanted`, are smaller than `like` and of its aspect; the smallest first."""
    return sorted(
        (width, height)
        for width, height in sizes
        if width >= wanted[0]
        and height >= wanted[1]
        and width < like[0]
        and abs(width * like[1] / (height * like[0]) - 1) < 0.02
    )
