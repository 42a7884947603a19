"""A clip's images where they lie: a folder of stills, or a video file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import cv2

from edge.core.frames import Image
from trainer.datasets.clips import Faults, abbreviate, images, pluralize, read_image

PATIENCE = 1000
"""Reads in a row that fail before a film counts as ended: past its end they take 50 ms together."""


class ImageFolderSequence:
    """The images of one folder, in numbered order; their labels have the same stems."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths = images(self._folder)
        if not paths:
            self._faults[self._folder] = "no image in it"
        return paths

    @cached_property
    def _keys(self) -> list[str]:
        return list(self._paths)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the image's stem."""
        return self._keys[index]

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield the images that can be read."""
        for index in range(start, stop):
            path = self._paths[self._keys[index]]
            image = read_image(path, cv2.IMREAD_COLOR)
            if image is None:
                self._faults[path] = "not readable as an image"
            else:
                yield index, image


class VideoSequence:
    """A video file; its labels are numbered from 0001."""

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
            return 1 + max((index for index, _ in _decoded(capture, 0)), default=-1)
        finally:
            capture.release()

    def __len__(self) -> int:
        return self._length

    def key(self, index: int) -> str:
        """Return the frame's number from 1, in four digits."""
        return f"{index + 1:04d}"

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield the frames that can be decoded, before damage and behind it, each at its own index."""
        if start >= stop:
            return
        capture = self._open()
        try:
            at = _seek(capture, start)
            for index, image in _decoded(capture, at):
                self._lose(range(max(at, start), min(index, stop)))
                if start <= index < stop:
                    yield index, image
                at = index + 1
                if at >= stop:
                    return
            if stop == len(self):
                self._end = at
            self._lose(range(max(at, start), stop))
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)

    def _lose(self, indices: Iterable[int]) -> None:
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
    """Go to the frame `start`, or to one before it where damage is in the way; return which."""
    if start == 0:
        return 0
    # where the first frame is damaged, OpenCV numbers from the next
    at, back = start if capture.grab() else 0, 32
    while at > 0:
        if capture.set(cv2.CAP_PROP_POS_FRAMES, at) and capture.get(cv2.CAP_PROP_POS_FRAMES) == at:
            return at
        at, back = at - back, 2 * back
    capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
    return 0


def _decoded(capture: cv2.VideoCapture, at: int) -> Iterator[tuple[int, Image]]:
    """Yield index and image of what can be decoded, of a capture whose next frame is `at`.

    Frames are counted; behind failed reads the time since the last frame tells how many were lost, and
    where the file has no times, the number of those reads.
    """
    fps = capture.get(cv2.CAP_PROP_FPS)
    last_ms = capture.get(cv2.CAP_PROP_POS_MSEC) if at else math.nan
    failed = 0
    while failed < PATIENCE:
        read, image = capture.read()
        if not read:
            failed += 1
            continue
        now_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        if failed:
            passed = (now_ms - last_ms) / 1000 * fps
            at += max(0, round(passed) - 1) if 0 < passed < 1e9 else failed
        yield at, image  # type: ignore[misc]
        at, last_ms, failed = at + 1, now_ms, 0
