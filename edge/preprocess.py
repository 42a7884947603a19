"""The one definition of preprocessing: trainer, calibration and drone all prepare frames here."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Preprocessing:
    """From a camera's frame to a student's input.

    The frame is resized to `width` x `height` by area (each output pixel is the mean of the input
    pixels it covers: no aliasing), whatever its aspect; BGR becomes RGB; v becomes
    v * scale + offset. A frame of even sides, eight times the target or more, is halved by 2 x 2
    means first, as often as that holds: 2 to 9 times faster in OpenCV than one pass, and on drone
    footage within 0.7 grey levels of it (rms).
    """

    width: int
    height: int
    scale: float = 1 / 127.5
    offset: float = -1.0

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `image` (H, W, 3) as (height, width, 3), uint8, colour order unchanged."""
        height, width = image.shape[:2]
        for _ in range(self.halvings(width, height)):
            height, width = height // 2, width // 2
            image = _area(image, width, height)
        whole = (height, width) == (self.height, self.width)
        return image if whole else _area(image, self.width, self.height)

    def halvings(self, width: int, height: int) -> int:
        """Return how often a frame of this size is halved before the area resize."""
        count = 0
        while height >= 8 * self.height and width >= 8 * self.width and height % 2 == width % 2 == 0:
            height, width, count = height // 2, width // 2, count + 1
        return count

    def __call__(
        self, image: NDArray[np.uint8], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return `image` (H, W, 3), uint8 BGR, as (1, 3, height, width), float32 RGB, scaled.

        `out`, if given, is filled and returned.
        """
        if out is None:
            out = np.empty((1, 3, self.height, self.width), np.float32)
        planes = self.resize(image)[:, :, ::-1].transpose(2, 0, 1)
        np.multiply(planes, np.float32(self.scale), out=out[0])
        out += np.float32(self.offset)
        return out


def _area(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = cv2.resize(  # type: ignore[assignment]
        image, (width, height), interpolation=cv2.INTER_AREA
    )
    return resized
