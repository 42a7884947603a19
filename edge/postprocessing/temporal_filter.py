"""Smoothing of maps over time without lag: flicker is damped, and a target that jumps shows at once.

It is a recursive filter. Its gain depends, pixel by pixel, on how much the map changes there. The last map is
first moved along the camera's motion. E. Dubois and S. Sabri, "Noise reduction in image sequences using
motion-compensated temporal filtering", IEEE Transactions on Communications 32(7), 1984.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Tensor
from edge.preprocessing.egomotion import warp_frame

TIME_CONSTANT_S = 0.2
"""Time constant of the filter where the map does not change by more than `NOISE`."""
NOISE, CHANGE = 0.1, 0.3
"""Shares of the map's maximum: a change below the first is noise, one above the second is passed fully."""
MAX_GAP_S = 0.5
"""The previous map is forgotten after a longer gap."""


class TemporalFilter:
    """Smooths maps (H, W), non-negative, that come in order of time."""

    def __init__(self) -> None:
        self._last: Tensor | None = None
        self._last_s = 0.0

    def __call__(self, saliency: Tensor, time_s: float, to_last: NDArray[np.float64] | None = None) -> Tensor:
        """Return the smoothed map (H, W).

        The gain rises from 1 - exp(-dt / TIME_CONSTANT_S) to 1, linearly between `NOISE` and `CHANGE`. The
        filter restarts with a map of another size, or when the time goes back or leaps.

        Args:
            saliency: The map (H, W).
            time_s: Time of the map in seconds.
            to_last: Motion of the camera: homography (3, 3) from pixels of this map to those of the last one.
        """
        last, elapsed_s = self._last, time_s - self._last_s
        self._last_s = time_s
        if last is None or last.shape != saliency.shape or not 0 <= elapsed_s <= MAX_GAP_S:
            self._last = saliency.copy()
            return self._last
        if to_last is not None:
            last = warp_frame(last, saliency, to_last)
        maximum = max(float(saliency.max()), float(last.max()))
        if not maximum > 0:
            self._last = saliency.copy()
            return self._last
        min_gain = 1 - math.exp(-elapsed_s / TIME_CONSTANT_S)
        step = saliency - last
        # The change is blurred, because that of a target covers an area and that of noise a single pixel.
        # The following operations work in place, because each new map of this size costs time.
        filtered: Tensor = cv2.blur(np.abs(step), (3, 3))
        filtered -= NOISE * maximum
        filtered *= (1 - min_gain) / ((CHANGE - NOISE) * maximum)
        filtered += min_gain
        np.clip(filtered, min_gain, 1, out=filtered)
        filtered *= step
        filtered += last
        self._last = filtered
        return filtered
