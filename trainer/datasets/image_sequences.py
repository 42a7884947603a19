"""Images of a clip: a folder of image files, or a video file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import cv2

from edge.core.frames import Image
from trainer.datasets.clips import Faults, abbreviate, list_images, pluralize, read_image

MAX_FAILED_READS = 1000
"""Consecutive failed reads after which a video counts as ended. Behind the end they take 50 ms in total."""


class ImageFolderSequence:
    """Images of one folder, sorted by number; their labels have the same stems."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths = list_images(self._folder)
        if not paths:
            self._faults[self._folder] = "no image in it"
        return paths

    @cached_property
    def _keys(self) -> list[str]:
        return list(self._paths)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the stem of the image."""
        return self._keys[index]

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image. Unreadable images are skipped and recorded."""
        for index in range(start, stop):
            path = self._paths[self._keys[index]]
            image = read_image(path, cv2.IMREAD_COLOR)
            if image is None:
                self._faults[path] = "not readable as an image"
            else:
                yield index, image


class VideoSequence:
    """Frames of a video file; their labels are numbered from 0001."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self._path = path
        self._faults = faults
        self._lost: set[int] = set()
        self._end: int | None = None

    @cached_property
    def _length(self) -> int:
        capture = self._open()
        try:
            announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            if not capture.isOpened():
                self._faults[self._path] = "not readable as a video"
                return 0
            if math.isfinite(announced) and 0 < announced < 1e9:
                return int(announced)
            return 1 + max((index for index, _ in _decode(capture, 0)), default=-1)
        finally:
            capture.release()

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> str:
        """Return the number of the frame from 1, in four digits."""
        return f"{index + 1:04d}"

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image.

        Damaged frames are skipped and recorded. The frames after them keep their index.
        """
        if start >= stop:
            return
        capture = self._open()
        try:
            position = _seek(capture, start)
            for index, image in _decode(capture, position):
                self._record_lost(range(max(position, start), min(index, stop)))
                if start <= index < stop:
                    yield index, image
                position = index + 1
                if position >= stop:
                    return
            if stop == len(self):
                self._end = position
            self._record_lost(range(max(position, start), stop))
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)

    def _record_lost(self, indices: Iterable[int]) -> None:
        self._lost.update(indices)
        end = len(self) if self._end is None else self._end
        gaps = [str(index) for index in sorted(self._lost) if index < end]
        reasons = []
        if gaps:
            reasons.append(f"{pluralize(len(gaps), 'frame')} cannot be decoded: {abbreviate(gaps)}")
        if end < len(self):
            reasons.append(f"ends at frame {end} of the {len(self)} it announces")
        if reasons:
            self._faults[self._path] = "; ".join(reasons)


def _seek(capture: cv2.VideoCapture, start: int) -> int:
    """Seek to the frame `start`, or to an earlier one if damage prevents it; return its index."""
    if start == 0:
        return 0
    # If the first frame is damaged, OpenCV numbers the frames from the next one, and seeking goes to a wrong
    # frame: decode from the start then.
    position, step = start if capture.grab() else 0, 32
    while position > 0:
        moved = capture.set(cv2.CAP_PROP_POS_FRAMES, position)
        if moved and capture.get(cv2.CAP_PROP_POS_FRAMES) == position:
            return position
        position, step = position - step, 2 * step
    capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
    return 0


def _decode(capture: cv2.VideoCapture, position: int) -> Iterator[tuple[int, Image]]:
    """Yield index and image of the frames that can be decoded.

    Frames are counted. After failed reads, the time since the last frame gives the number of lost frames; in
    a file without times, the number of failed reads does.

    Args:
        capture: The open video.
        position: Index of the next frame.
    """
    fps = capture.get(cv2.CAP_PROP_FPS)
    last_ms = capture.get(cv2.CAP_PROP_POS_MSEC) if position else math.nan
    failed_reads = 0
    while failed_reads < MAX_FAILED_READS:
        success, image = capture.read()
        if not success:
            failed_reads += 1
            continue
        now_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        if failed_reads:
            frames = (now_ms - last_ms) / 1000 * fps
            position += max(0, round(frames) - 1) if 0 < frames < 1e9 else failed_reads
        yield position, image  # type: ignore[misc]
        position, last_ms, failed_reads = position + 1, now_ms, 0
