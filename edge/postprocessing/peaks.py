"""Peaks of a saliency map: the points that a viewer would look at first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Tensor

RADIUS = 0.05
"""Radius of a peak's neighbourhood, in widths and heights of the map."""
MIN_HEIGHT = 0.15
"""Least height of a peak, relative to the map's maximum."""
_NEIGHBOURS = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Peak:
    """A local maximum of a map.

    Attributes:
        x: Horizontal position in [0, 1] of the frame's width, from the left.
        y: Vertical position in [0, 1] of the frame's height, from the top.
        score: Share of the map's mass in the neighbourhood, in [0, 1]: the share of gaze expected there.
    """

    x: float
    y: float
    score: float


def find_peaks(saliency: Tensor, max_count: int = 5) -> tuple[Peak, ...]:
    """Return the highest peaks of a map, sorted by falling score.

    Neighbourhoods do not overlap: of two near peaks, the higher one is kept.

    Args:
        saliency: Map (H, W), non-negative.
        max_count: Number of peaks at most.
    """
    height, width = saliency.shape
    total, maximum = float(saliency.sum()), float(saliency.max())
    if not maximum > 0:
        return ()
    is_peak = saliency == cv2.dilate(saliency, _NEIGHBOURS)
    is_peak &= saliency >= MIN_HEIGHT * maximum
    rows, columns = np.divmod(np.flatnonzero(is_peak), width)
    highest_first = np.argsort(-saliency[rows, columns], kind="stable")
    radius = max(RADIUS, 1.5 / width)  # on a small map, at least the adjacent pixels
    peaks: list[Peak] = []
    for index in highest_first:
        row, column = rows[index], columns[index]
        peak_x = _refine(saliency[row], column) / width
        peak_y = _refine(saliency[:, column], row) / height
        if any((p.x - peak_x) ** 2 + (p.y - peak_y) ** 2 < (2 * radius) ** 2 for p in peaks):
            continue
        peaks.append(Peak(peak_x, peak_y, _mass_around(saliency, peak_x, peak_y, radius) / total))
        if len(peaks) == max_count:
            break
    return tuple(sorted(peaks, key=lambda peak: -peak.score))


def _mass_around(saliency: Tensor, x: float, y: float, radius: float) -> float:
    """Return the sum of the pixels whose centre is at most `radius` from a position, all in [0, 1]."""
    height, width = saliency.shape
    # The square around the circle, and a pixel more on each side.
    top, left = max(0, int((y - radius) * height) - 1), max(0, int((x - radius) * width) - 1)
    part = saliency[top : int((y + radius) * height) + 2, left : int((x + radius) * width) + 2]
    down = _pixel_centres(height)[top : top + part.shape[0]] - y
    across = _pixel_centres(width)[left : left + part.shape[1]] - x
    return float(part[(down**2)[:, None] + across**2 <= radius**2].sum())


@lru_cache(maxsize=16)
def _pixel_centres(size: int) -> NDArray[np.float64]:
    """Return the positions of the pixels of a side, in [0, 1]."""
    return (np.arange(size) + 0.5) / size


def _refine(line: Tensor, index: int) -> float:
    """Return the position of a maximum between pixels, by the parabola through it and its neighbours."""
    centre = index + 0.5
    if not 0 < index < len(line) - 1:
        return centre
    left, middle, right = line[index - 1 : index + 2].tolist()
    curvature = left - 2 * middle + right
    return centre + (0.5 * (left - right) / curvature if curvature < 0 else 0.0)
