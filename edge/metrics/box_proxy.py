"""A proxy for aerial gaze: how a map ranks the one target of a frame that somebody tracked.

Nobody's eyes were recorded: say so wherever these numbers are printed. Only one target a frame is boxed,
so other finds count as errors. Average over a sequence's frames first, then over sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.saliency import auc

BLUR = 0.04
"""Standard deviation of zblur's Gaussian, in map widths."""
MARGIN, MARGIN_PX = 0.25, 12.0
"""By how much hit's box grows, the larger of the two: of its side, and in pixels of the frame."""


class BoxScores(NamedTuple):
    """One frame's scores; each NaN where the target is unseen."""

    auc: float
    """The probability that a pixel of the box outranks a pixel of the frame, ties one half."""
    z: float
    """The mean z-score of the map inside the box; 0 if the map is constant."""
    zblur: float
    """z after a Gaussian blur of the map, mirrored at its edges, since z alone rewards sharpness."""
    hit: float
    """1 if the map's peak (the first pixel of largest value, row by row) lies in the grown box, else 0.

    The box grows about its centre: its width by the larger of 25 % and 12 px, half to each side, and its
    height likewise. A constant map has no peak.
    """


def box_scores(saliency: NDArray[Any], box: NDArray[np.floating], width: int, height: int) -> BoxScores:
    """Return how a map (H, W) of a `width` x `height` frame ranks `box`: x, y, w, h in pixels.

    The map is stretched to the frame, linearly between pixel centres; zblur's blur comes before. A pixel
    is the box's if any part of it is: columns floor(x) to ceil(x + w), at least one. All scores are NaN if
    the box holds a NaN or lies outside the frame.

    Raises:
        InputError: the map is not (H, W), or the box is not four numbers.
    """
    if np.ndim(saliency) != 2 or np.shape(box) != (4,):
        raise InputError(
            f"a map has shape {np.shape(saliency)} and its box {np.shape(box)}, expected (H, W) and (4,): "
            "give one frame's map and x, y, w, h"
        )
    x, y, w, h = (float(side) for side in box)
    if np.isnan(box).any() or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return BoxScores(*[float("nan")] * 4)
    inside = (_pixels(y, h), _pixels(x, w))
    small = saliency.astype(np.float32)
    sharp = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    blurred = cv2.GaussianBlur(small, (0, 0), BLUR * small.shape[1])
    blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    row, column = np.unravel_index(sharp.argmax(), sharp.shape)
    hit = _near(column + 0.5, x, w) and _near(row + 0.5, y, h) and sharp.max() > sharp.min()
    return BoxScores(auc(sharp[inside], sharp), _z(sharp, inside), _z(blurred, inside), float(hit))


def _pixels(start: float, length: float) -> slice:
    first = max(int(start), 0)
    return slice(first, max(int(np.ceil(start + length)), first + 1))


def _near(place: float, start: float, length: float) -> bool:
    margin = max(MARGIN * length, MARGIN_PX) / 2
    return start - margin <= place <= start + length + margin


def _z(stretched: NDArray[Any], inside: tuple[slice, slice]) -> float:
    deviation = float(stretched.std(dtype=np.float64))
    if stretched.max() == stretched.min():
        return 0.0
    return (
        float(stretched[inside].mean(dtype=np.float64)) - float(stretched.mean(dtype=np.float64))
    ) / deviation
