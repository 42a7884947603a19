"""Overlay video sink: each frame under a heat map of its saliency, with regions or peaks marked."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import disk_usage

import cv2
import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Image, Source, Tensor
from edge.postprocessing.annotations import draw_annotations
from edge.postprocessing.result import Result, ResultTransform, identity
from edge.sinks.files.map_images import fit_to_aspect
from edge.sinks.files.piped_file import PipedFile
from edge.sinks.files.recovery import LockedFile
from edge.sources.video_file import announced_frames, count_packets

MAX_SIDE = 1280
"""Larger frames are shrunk to fit: the overlay is for viewing, not for measuring."""
MAX_OPACITY = 0.75
RESERVED_BYTES = 8 << 20
"""Disk space left free. A video is unreadable if its index does not fit on the disk at the end."""
MAX_REPEATED_S = 60.0
"""Longest time that a picture is repeated: a damaged time stamp must not fill the disk."""
DISK_CHECK_INTERVAL = 30
"""Number of frames between two checks of the free disk space."""
_OPACITY = np.linspace(0, MAX_OPACITY, 256)
_HEAT_COLOURS = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).reshape(256, 3)
_ADDED_COLOUR = np.rint(_HEAT_COLOURS * _OPACITY[:, None]).astype(np.uint8)
_FRAME_WEIGHT = np.rint(255 * (1 - _OPACITY)).astype(np.uint8)
"""Alpha blending by saliency level: colour times opacity, and the remaining weight of the frame."""


class OverlaySink:
    """Writes an MPEG-4 video with the frame rate of the source.

    OpenCV's writer reports no errors. So the sink stops before the disk is full, and reads the video back
    at the end.

    Args:
        path: Output file; its suffix selects the container.
        source: Source of the frames, for their size and frame rate.
        transform: Applied to each result first, for example to find regions.
        is_live: The run is live: pictures are written one by one, and a Matroska file gets them at once, so
            that it survives if the process is killed. Else a picture is repeated until the next one is due,
            so that videos of a variable frame rate and videos with damaged frames keep their time.

    Raises:
        InputError: The suffix is not .mp4, .mkv or .avi, OpenCV cannot encode to the file, or the disk is
            almost full (also from `write`). From `finish`: the video is incomplete.
    """

    def __init__(
        self,
        path: Path,
        source: Source,
        transform: ResultTransform = identity,
        is_live: bool = False,
    ) -> None:
        self._transform = transform
        if path.suffix.lower() not in {".mp4", ".mkv", ".avi"}:
            raise InputError(f"cannot write {path}: expected a name ending in .mp4, .mkv or .avi")
        self._size = overlay_size(source.width, source.height, step=2)
        self._pending = LockedFile(path)
        self._frames = 0
        self._fps, self._keeps_time = source.fps, not is_live
        self._pipe: PipedFile | None = None
        self._start_s: float | None = None
        self._picture: Image | None = None
        if self._is_disk_full():
            self._pending.discard()
            raise InputError(
                f"cannot write {path}: the disk is almost full; free some space, or choose another path"
            )
        is_piped = is_live and path.suffix.lower() == ".mkv"
        try:
            self._open_encoder(path, is_piped)
        except InputError:
            self._pending.discard()
            raise

    def _open_encoder(self, path: Path, is_piped: bool) -> None:
        fps = self._fps
        for rate in (fps, round(fps, 2), round(fps)):  # MPEG-4 cannot store every rate
            if is_piped:
                self._pipe = PipedFile(self._pending.path, partial(self._open_writer, rate, cv2.CAP_FFMPEG))
                if self._pipe.is_open:
                    return
                self._pipe = None
            if self._open_writer(rate, cv2.CAP_ANY, self._pending.path):
                return
        raise InputError(f"this OpenCV cannot encode MPEG-4 video to {path}: try another folder or name")

    def _open_writer(self, fps: float, backend: int, path: Path) -> bool:
        """Open the encoder and return whether it is open."""
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path.absolute()), backend, codec, fps, self._size)
        return self._writer.isOpened()

    def write(self, result: Result) -> None:
        """Draw and encode one frame."""
        if self._pipe is not None and self._pipe.error is not None:
            raise self._pipe.error
        if self._frames % DISK_CHECK_INTERVAL == 0 and self._is_disk_full():
            self._writer.release()  # write the index now: other sinks may fill the same disk
            raise InputError(
                f"the disk of {self._pending.target} is almost full: the video ends after {self._frames} "
                "frames; free some space, or choose another path"
            )
        for _ in range(self._count_repeats(result.frame.capture_s)):
            self._write_picture()
        self._picture = draw_overlay(self._transform(result), *self._size)
        self._write_picture()

    def _count_repeats(self, time_s: float) -> int:
        """Return how often the last picture is repeated before the one of this time."""
        self._start_s = time_s if self._start_s is None else self._start_s
        missing = round((time_s - self._start_s) * self._fps) - self._frames
        if not self._keeps_time or missing <= 0 or self._picture is None:
            return 0
        return min(missing, round(MAX_REPEATED_S * self._fps))

    def _write_picture(self) -> None:
        if self._picture is not None:
            self._writer.write(self._picture)
            self._frames += 1

    def finish(self) -> None:
        """Close the video and check that all frames can be read back."""
        self._writer.release()
        if self._pipe is not None:
            self._pipe.finish()
        frames = _count_frames(self._pending.path)
        if frames != self._frames or not frames:
            raise InputError(
                f"cannot write {self._pending.target}: {frames} of {self._frames} frames can be read back; "
                "is the disk full?"
            )

    def commit(self) -> None:
        """Move the video to its final path."""
        self._pending.commit()

    def discard(self) -> None:
        """Close and remove the video."""
        self._writer.release()
        if self._pipe is not None:
            with suppress(InputError):
                self._pipe.finish()
        self._pending.discard()

    def _is_disk_full(self) -> bool:
        return disk_usage(self._pending.path.parent).free < RESERVED_BYTES


def _count_frames(path: Path) -> int:
    """Return the number of frames in a video; a piped one does not announce it."""
    written = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    announced = announced_frames(written) if written.isOpened() else 0
    written.release()
    return count_packets(path) if announced is None else announced


def overlay_size(width: int, height: int, max_side: int = MAX_SIDE, step: int = 1) -> tuple[int, int]:
    """Return width and height of the overlay of a frame.

    Args:
        width: Width of the frame.
        height: Height of the frame.
        max_side: A longer side is shrunk to it.
        step: Both sides become a multiple of it, at least once: many encoders need even sides.
    """
    scale = min(1.0, max_side / max(width, height))
    return max(step, step * round(width * scale / step)), max(step, step * round(height * scale / step))


def draw_overlay(result: Result, width: int, height: int) -> Image:
    """Return the frame (height, width, 3) under its heat map, with its regions or peaks marked."""
    image = blend_heat_map(result.frame.image, result.saliency, width, height)
    draw_annotations(image, result)
    return image


def blend_heat_map(frame: Image, saliency: Tensor, width: int, height: int) -> Image:
    """Return the frame, resized to (height, width, 3), under the heat map of its saliency.

    Args:
        frame: Image (H, W, 3).
        saliency: Non-negative map of any size.
        width: Width of the result in pixels.
        height: Height of the result in pixels.
    """
    # Area interpolation costs ten times as much, and matters only for strong shrinking.
    interpolation = cv2.INTER_AREA if frame.shape[1] >= 2 * width else cv2.INTER_LINEAR
    image = cv2.resize(frame, (width, height), interpolation=interpolation)
    fitted = fit_to_aspect(saliency, frame.shape[1], frame.shape[0])
    level = (np.sqrt(fitted / max(float(fitted.max()), 1e-12)) * 255).astype(np.uint8)
    weight = cv2.resize(_FRAME_WEIGHT[level], (width, height))
    weighted = cv2.multiply(image, cv2.merge((weight, weight, weight)), scale=1 / 255)
    colour = cv2.resize(_ADDED_COLOUR[level], (width, height))
    blended: Image = cv2.add(weighted, colour)  # type: ignore[assignment]
    return blended
