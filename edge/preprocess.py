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
    v * scale + offset.
    """

    width: int
    height: int
    scale: float = 1 / 127.5
    offset: float = -1.0

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `image` (H, W, 3) as (height, width, 3), uint8, colour order unchanged."""
        if image.shape[:2] == (self.height, self.width):
            return image
        resized: NDArray[np.uint8] = cv2.resize(  # type: ignore[assignment]
            image, (self.width, self.height), interpolation=cv2.INTER_AREA
        )
        return resized

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
