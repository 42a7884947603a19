"""Maps smoothed over time without lag: flicker is damped, a target that jumps is followed at once.

A recursive filter whose gain is set, pixel by pixel, by how much the map changes there, on a past that
was moved by the camera's own motion: E. Dubois and S. Sabri, "Noise reduction in image sequences using
motion-compensated temporal filtering", IEEE Transactions on Communications 32(7), 1984.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Tensor
from edge.preprocessing.egomotion import warp_frame

CALM_S = 0.2
"""The filter's time constant where the map does not change by more than `NOISE`."""
NOISE, CHANGE = 0.1, 0.3
"""Shares of the map's maximum: a change up to the first is noise, from the second on it is taken whole."""
LONGEST_S = 0.5
"""After a longer silence the past is forgotten."""


class TemporalFilter:
    """Smooths maps (H, W), non-negative, that come in order."""

    def __init__(self) -> None:
        self._past: Tensor | None = None
        self._at_s = 0.0

    def __call__(self, saliency: Tensor, at_s: float, back: NDArray[np.float64] | None = None) -> Tensor:
        """Return the smoothed map (H, W) of the moment `at_s`, in seconds.

        `back`: the camera's motion, a homography (3, 3) from this map's pixels to the last one's. The
        gain rises from 1 - exp(-dt / CALM_S) to 1, linearly between `NOISE` and `CHANGE`. A map of another
        size, or a clock that jumps, starts anew.
        """
        past, elapsed_s = self._past, at_s - self._at_s
        self._at_s = at_s
        if past is None or past.shape != saliency.shape or not 0 <= elapsed_s <= LONGEST_S:
            self._past = saliency.copy()
            return self._past
        if back is not None:
            past = warp_frame(past, saliency, back)  # what the camera did not see then is as it is now
        top = max(float(saliency.max()), float(past.max()))
        if not top > 0:
            self._past = saliency.copy()
            return self._past
        least = 1 - math.exp(-elapsed_s / CALM_S)
        step = saliency - past
        # A blurred change is a target's; a lone pixel's is noise.
        gain: Tensor = cv2.blur(np.abs(step), (3, 3))
        gain -= NOISE * top
        gain *= (1 - least) / ((CHANGE - NOISE) * top)
        gain += least
        np.clip(gain, least, 1, out=gain)
        gain *= step
        gain += past
        self._past = gain
        return gain
