"""Images of a clip: a folder of image files, or a video file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import cv2

from edge.core.frames import Image
from edge.sources.image_folder import ImageFiles
from edge.sources.video_container import count_frames
from edge.sources.video_file import (
    announced_frames,
    count_packets,
    decode_frames,
    describe_damage,
    describe_end,
    open_video,
)
from trainer.datasets.clips import Faults, list_images


class ImageFolderSequence:
    """Images of one folder, sorted by number; their labels have the same stems."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        self._folder = folder
        self._faults = faults

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths = list_images(self._folder, self._faults)
        if not paths:
            self._faults[self._folder] = "no image in it"
        return paths

    @cached_property
    def _keys(self) -> list[str]:
        return list(self._paths)

    @cached_property
    def _files(self) -> ImageFiles:
        return ImageFiles(list(self._paths.values()))

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """Return the stem of the image."""
        return self._keys[index]

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image. Unreadable images are skipped and recorded."""
        for index in range(start, stop):
            decoded = self._files.read(index)
            if decoded is None:
                self._faults[self._paths[self._keys[index]]] = "not readable as an image"
            else:
                yield index, decoded[0]


class VideoSequence:
    """Frames of a video file; their labels are numbered from 0001."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self._path = path
        self._faults = faults
        self._lost: set[int] = set()
        self._end: int | None = None
        self._end_text: str | None = None

    @cached_property
    def _length(self) -> int:
        capture = open_video(self._path)
        try:
            if not capture.isOpened():
                self._faults[self._path] = "not readable as a video"
                return 0
            announced = announced_frames(capture)
            if announced is None:
                return 1 + max((frame.index for frame in decode_frames(capture)), default=-1)
        finally:
            capture.release()
        exact = count_frames(self._path, announced)
        # Matroska announces by the duration, which may be that of a longer sound track.
        return exact if exact is not None else min(announced, count_packets(self._path) or announced)

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
        capture = open_video(self._path)
        try:
            position = _seek(capture, start)
            for frame in decode_frames(capture, position):
                self._record_lost(range(max(position, start), min(frame.index, stop)))
                if start <= frame.index < stop:
                    yield frame.index, frame.image
                position = frame.index + 1
                if position >= stop:
                    return
            if text := describe_end(self._path, position, len(self)):  # else their number was an estimate
                if stop == len(self):
                    self._end, self._end_text = position, text
                self._record_lost(range(max(position, start), stop))
        finally:
            capture.release()

    def _record_lost(self, indices: Iterable[int]) -> None:
        self._lost.update(indices)
        end = len(self) if self._end is None else self._end
        if text := describe_damage({index for index in self._lost if index < end}, self._end_text):
            self._faults[self._path] = text


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
