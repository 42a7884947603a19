"""The video a person looks at: the frame under its saliency."""

from __future__ import annotations

from pathlib import Path
from shutil import disk_usage

import cv2
import numpy as np

from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from edge.core.frames import Image, Source, Tensor
from edge.postprocessing.annotations import draw_annotations
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.map_images import fit_to_aspect

MOST_WIDTH, MOST_HEIGHT = 1280, 1280
"""Larger frames are shrunk to fit: an overlay is looked at, not measured."""
OPACITY = 0.75
RESERVE_BYTES = 8 << 20
"""Of the disk, left free: a video whose index finds no room at its end cannot be read at all."""
DISK_CHECK_INTERVAL = 30
"""Frames from one look at the disk to the next."""
_LEVELS = np.linspace(0, OPACITY, 256)
_HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(256, 3)
_GLOW = np.rint(_HEAT * _LEVELS[:, None]).astype(np.uint8)
_SHADE = np.rint(255 * (1 - _LEVELS)).astype(np.uint8)
"""By level of saliency: the colour that is added, times its opacity, and what is left of the frame."""


class OverlaySink:
    """Writes an MPEG-4 video of the source's frame rate.

    OpenCV's writer reports no errors: the video ends before the disk is full, and is read back at its end.

    Raises:
        InputError: the name does not end in .mp4, .mkv or .avi, OpenCV cannot encode there, or the disk is
            all but full, now or later; at the end: the video is not whole.
    """

    def __init__(self, path: Path, source: Source, transform: ResultTransform = identity) -> None:
        self._transform = transform
        if path.suffix.lower() not in {".mp4", ".mkv", ".avi"}:
            raise InputError(f"cannot write {path}: expected a name ending in .mp4, .mkv or .avi")
        shrink = min(1.0, MOST_WIDTH / source.width, MOST_HEIGHT / source.height)
        self._size = tuple(max(2, 2 * round(side * shrink / 2)) for side in (source.width, source.height))
        self._pending = PendingFile(path)
        self._frames = 0
        if self._full():
            self._pending.discard()
            raise InputError(
                f"cannot write {path}: the disk is all but full; free some space, or name another place"
            )
        for fps in (source.fps, round(source.fps, 2), round(source.fps)):  # MPEG-4 cannot say them all
            self._writer = cv2.VideoWriter(
                str(self._pending.path.absolute()), cv2.VideoWriter.fourcc(*"mp4v"), fps, self._size
            )
            if self._writer.isOpened():
                return
        self._pending.discard()
        raise InputError(f"this OpenCV cannot encode MPEG-4 video to {path}: try another folder or name")

    def write(self, result: Result) -> None:
        """Draw and encode the frame."""
        if self._frames % DISK_CHECK_INTERVAL == 0 and self._full():
            self._writer.release()  # now: others write to that disk, too
            raise InputError(
                f"the disk of {self._pending.target} is all but full: there is room for {self._frames} "
                "frames of video; free some space, or name another place"
            )
        self._writer.write(draw_overlay(self._transform(result), *self._size))
        self._frames += 1

    def finish(self) -> None:
        """End the video and see that it is whole."""
        self._writer.release()
        written = cv2.VideoCapture(str(self._pending.path.absolute()), cv2.CAP_FFMPEG)
        frames = max(0, int(written.get(cv2.CAP_PROP_FRAME_COUNT))) if written.isOpened() else 0
        written.release()
        if frames != self._frames or not frames:
            raise InputError(
                f"cannot write {self._pending.target}: of {self._frames} frames {frames} can be read back; "
                "is the disk full?"
            )

    def commit(self) -> None:
        """Put the video in its place."""
        self._pending.commit()

    def discard(self) -> None:
        """End the video and remove it."""
        self._writer.release()
        self._pending.discard()

    def _full(self) -> bool:
        return disk_usage(self._pending.path.parent).free < RESERVE_BYTES


def draw_overlay(result: Result, width: int, height: int) -> Image:
    """Return the frame (height, width, 3) under its heat map, its regions or peaks marked."""
    image = blend_heat_map(result.frame.image, result.saliency, width, height)
    draw_annotations(image, result)
    return image


def blend_heat_map(frame: Image, saliency: Tensor, width: int, height: int) -> Image:
    """Return the frame (height, width, 3) under the heat of a map of any size, non-negative."""
    way = cv2.INTER_AREA if frame.shape[1] >= 2 * width else cv2.INTER_LINEAR  # area costs ten times as much
    image = cv2.resize(frame, (width, height), interpolation=way)
    small = fit_to_aspect(saliency, frame.shape[1], frame.shape[0])
    level = (np.sqrt(small / max(float(small.max()), 1e-12)) * 255).astype(np.uint8)
    shade = cv2.resize(_SHADE[level], (width, height))
    shaded = cv2.multiply(image, cv2.merge((shade, shade, shade)), scale=1 / 255)
    glow = cv2.resize(_GLOW[level], (width, height))
    blended: Image = cv2.add(shaded, glow)  # type: ignore[assignment]
    return blended
