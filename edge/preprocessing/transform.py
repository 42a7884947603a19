"""The one definition of preprocessing: trainer, calibration and drone all prepare frames here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.preprocessing.area_resize import resize_by_area
from edge.preprocessing.egomotion import align_frame


@dataclass(frozen=True)
class Alignment:
    """A student's second input: the frame `lag_s` seconds before, moved onto the new one.

    Both are resized to `width` x `height` first: there the camera's motion is found.
    """

    lag_s: float
    width: int = 256
    height: int = 144


@dataclass(frozen=True)
class Preprocessing:
    """From a camera's frame to a student's input.

    The frame is resized to `width` x `height` by area (each output pixel is the mean of the input
    pixels it covers: no aliasing), whatever its aspect; BGR becomes RGB; v becomes
    v * scale + offset. A frame of even sides, eight times the target or more, is halved by 2 x 2
    means first, as often as that holds: 2 to 9 times faster than one pass, and on drone
    footage within 0.7 grey levels of it (rms).

    `alignment`: what the student is shown beside the frame; None is nothing.
    """

    width: int
    height: int
    scale: float = 1 / 127.5
    offset: float = -1.0
    alignment: Alignment | None = None

    @property
    def resized_shape(self) -> tuple[int, int]:
        """Return height and width of what is kept of a frame: the alignment's, else the student's."""
        kept = self.alignment or self
        return kept.height, kept.width

    @property
    def min_source_size(self) -> tuple[int, int]:
        """Return width and height that a source's frame should have, of 1/2, 1/4, 1/8 the least above.

        A frame that is halved no more: what a source's scaler or JPEG decoder takes away are the halvings
        by 2 x 2 means that come first here, so that the one area resize stays the same.
        """
        rows, columns = self.resized_shape
        return 4 * columns, 4 * rows

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `image` (H, W, 3) at the size `resized_shape`, uint8, colour order unchanged."""
        return _shrunk(image, *self.resized_shape)

    def align(self, past: NDArray[np.uint8], now: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an earlier frame as the student is shown it beside `now`: moved onto it, if aligned."""
        return align_frame(self.resize(past), self.resize(now)) if self.alignment else past

    def stack_window(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return what the student is shown of consecutive frames: (1, 3, T, height, width).

        All of them; or, aligned, the first of them moved onto the last, and the last.
        """
        if self.alignment:
            images = self.align(images[0], images[-1]), images[-1]
        return np.stack([self(image) for image in images], axis=2)

    def count_halvings(self, width: int, height: int) -> int:
        """Return how often a frame of this size is halved before the area resize."""
        return _halvings(width, height, self.resized_shape)

    def __call__(
        self, image: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return `image` (H, W, 3), uint8 BGR, as (1, 3, height, width), float32 RGB, scaled.

        `out`, if given, is filled and returned.
        """
        if out is None:
            out = np.empty((1, 3, self.height, self.width), np.float32)
        planes = _shrunk(self.resize(image), self.height, self.width)[:, :, ::-1].transpose(2, 0, 1)
        np.multiply(planes, np.float32(self.scale), out=out[0])
        out += np.float32(self.offset)
        return out


class FramePreprocessor:
    """Prepares a clip's frames in order: what a student is shown of each, with the past that it needs."""

    def __init__(self, preprocessing: Preprocessing, fps: float) -> None:
        self._prepare, lag = preprocessing, preprocessing.alignment
        self._past: deque[NDArray[np.uint8]] = deque(maxlen=max(1, round(lag.lag_s * fps)) if lag else 0)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the frame (1, 3, height, width); aligned, (2, 3, height, width): it and the past one.

        A clip's first frames look back to its first.
        """
        prepare = self._prepare
        if prepare.alignment is None:
            return prepare(image)
        now = prepare.resize(image)
        past = self._past[0] if self._past else now
        self._past.append(now)
        return np.concatenate([prepare(now), prepare(prepare.align(past, now))])


def _halvings(width: int, height: int, to: tuple[int, int]) -> int:
    rows, columns = to
    count = 0
    while height >= 8 * rows and width >= 8 * columns and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return count


def _shrunk(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = image.shape[:2]
    for _ in range(_halvings(columns, rows, (height, width))):
        rows, columns = rows // 2, columns // 2
        image = resize_by_area(image, columns, rows)
    return image if (rows, columns) == (height, width) else resize_by_area(image, width, height)
