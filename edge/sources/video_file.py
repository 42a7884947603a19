"""A video file, decoded by OpenCV's FFmpeg."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2

from edge.core.errors import InputError
from edge.core.frames import Frame

FALLBACK_FPS = 30.0
"""For files that do not tell, or tell nonsense."""


class VideoSource:
    """A video file, rotated as its metadata asks.

    Raises:
        InputError: empty, no video, or no frame of it can be decoded.
    """

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; expected a video file: copy it again")
        try:
            path.open("rb").close()
        except OSError as error:  # OpenCV does not tell
            raise InputError(
                f"cannot read {path}: {error.strerror}; expected a video file that this user may read"
            ) from None
        self._capture = cv2.VideoCapture(
            str(path.absolute()), cv2.CAP_FFMPEG
        )  # absolute: "12:00.avi" is no protocol
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok or first is None:
            self._capture.release()
            raise InputError(
                f"{path} has no frame that can be decoded; expected a whole video file that FFmpeg "
                "reads (a truncated MP4 whose index came last cannot be read): copy or convert it again"
            )
        self._first = first
        self.name = str(path)
        self.height, self.width = first.shape[:2]
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FALLBACK_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length: int | None = int(count) if math.isfinite(count) and 0 < count < 1e9 else None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until one cannot be decoded: the file's end, or where it was cut."""
        image, index, start, last = self._first, 0, None, -1.0
        while True:
            stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            start = stamp if start is None else start
            time = stamp - start
            if not time > last:  # containers without time stamps
                time = last + 1 / self.fps if index else 0.0
            last = time
            yield Frame(index, time, image)  # type: ignore[arg-type]
            ok, image = self._capture.read()
            index += 1
            if not ok or image is None:
                return

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
