"""A video file, decoded by OpenCV's FFmpeg."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2

from edge.core.errors import InputError
from edge.core.frames import Frame

FALLBACK_FPS = 30.0
"""Frame rate of files that state none, or an impossible one."""


class VideoSource:
    """A video file, rotated as its metadata says.

    Raises:
        InputError: The file is empty, is no video, or has no frame that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; expected a video file: copy it again")
        try:
            path.open("rb").close()
        except OSError as error:  # OpenCV gives no reason
            raise InputError(
                f"cannot read {path}: {error.strerror}; expected a video file that this user may read"
            ) from None
        # The absolute path, because FFmpeg takes "12:00.avi" for a URL.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        ok, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not ok or first is None:
            self._capture.release()
            raise InputError(
                f"{path} has no frame that can be decoded; expected a complete video file that FFmpeg reads "
                "(a truncated MP4 whose index came last cannot be read): copy or convert it again"
            )
        self._first = first
        self.name = str(path)
        self.height, self.width = first.shape[:2]
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FALLBACK_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.length: int | None = int(count) if math.isfinite(count) and 0 < count < 1e9 else None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames up to the first one that cannot be decoded: the end, or where the file was cut."""
        image, index, start_s, last_s = self._first, 0, None, -1.0
        while True:
            stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            start_s = stamp_s if start_s is None else start_s
            media_s = stamp_s - start_s
            if not media_s > last_s:  # the container has no time stamps
                media_s = last_s + 1 / self.fps if index else 0.0
            last_s = media_s
            yield Frame(index, media_s, image)  # type: ignore[arg-type]
            ok, image = self._capture.read()
            index += 1
            if not ok or image is None:
                return

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
