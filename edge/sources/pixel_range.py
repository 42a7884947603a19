"""Conversion of pixels of more than 8 bits, such as the counts of a thermal camera, to 8 bits.

The rule, in training, calibration and flight: values from the low to the high end of a range become 0 to 255.
The range is given (`--range`, `AEROGAZE_RANGE`), or it spans the percentiles `PERCENTILES` of up to
`MEASURED_IMAGES` images spread over the clip; of a live source, of its first frame. It is held for the whole
clip, because a range for each frame would flicker. Pixels of 8 bits are never changed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import Image

RANGE_VARIABLE = "AEROGAZE_RANGE"
"""Environment variable with the range; `--range` sets it, so that worker processes have it, too."""
PERCENTILES = (0.5, 99.5)
MEASURED_IMAGES = 16
_MEASURED_PIXELS = 1 << 16
"""Pixels of each image that are measured, evenly spaced."""


@dataclass(frozen=True)
class PixelRange:
    """Values that become black and white.

    Attributes:
        low: Value that becomes 0; smaller ones do, too.
        high: Value that becomes 255; larger ones do, too.
    """

    low: float
    high: float

    def to_8_bits(self, image: NDArray[Any]) -> Image:
        """Return an image (H, W) or (H, W, 3) of more than 8 bits as BGR of 8 bits (H, W, 3)."""
        # Arithmetic in place takes a third of the time of a table of all values of 16 bits.
        is_single = image.dtype in (np.uint16, np.float32)
        values = np.array(image, np.float32 if is_single else np.float64)
        if image.dtype.kind == "f":
            values[np.isnan(values)] = self.low
        np.clip(values, self.low, self.high, out=values)
        values -= self.low
        values *= 255 / (self.high - self.low)
        np.rint(values, out=values)
        return to_colour(np.asarray(cv2.convertScaleAbs(values), np.uint8))


def parse_range(text: str | None) -> PixelRange | None:
    """Return the range in a text; None for none and for `auto`, which measures it.

    Raises:
        InputError: The text is neither `auto` nor LOW,HIGH with LOW below HIGH.
    """
    if text is None or text == "auto":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"range {text!r} is not valid; expected auto, or LOW,HIGH such as 7000,9500")
    return PixelRange(low, high)


def configured_range() -> PixelRange | None:
    """Return the range of the environment, which all commands use; None to measure it.

    Raises:
        InputError: As `parse_range`.
    """
    return parse_range(os.environ.get(RANGE_VARIABLE) or None)


def describe_range() -> str:
    """Return the range of the environment in one form: `auto` to measure it, or LOW,HIGH.

    Raises:
        InputError: As `parse_range`.
    """
    given = configured_range()
    return "auto" if given is None else f"{given.low:g},{given.high:g}"


def measure_range(images: Iterable[NDArray[Any]]) -> PixelRange:
    """Return the range of the percentiles of all images together; NaN and infinity are left out."""
    samples = [_sample(image) for image in images]
    values = np.concatenate(samples) if samples else np.empty(0)
    if not values.size:
        return PixelRange(0.0, 65535.0)
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return PixelRange(low, high if high > low else low + 1.0)


def to_colour(image: NDArray[np.uint8]) -> Image:
    """Return a grey (H, W) or colour image (H, W, 3) of 8 bits as BGR."""
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]


def _sample(image: NDArray[Any]) -> NDArray[np.float64]:
    # The last axis is the colour, so that whole pixels are taken.
    pixels = image.reshape(-1, image.shape[2]) if image.ndim == 3 else image.reshape(-1, 1)
    values = pixels[:: max(1, len(pixels) // _MEASURED_PIXELS)].astype(np.float64).ravel()
    return values[np.isfinite(values)]
