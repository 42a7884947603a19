"""Where a map peaks: what a viewer would look at first."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge.core.frames import Tensor

REACH = 0.05
"""Radius of a peak's neighbourhood, in widths and heights of the map."""
LEAST = 0.15
"""Peaks lower than this share of the map's maximum are not told."""


@dataclass(frozen=True)
class Peak:
    """A local maximum: position in [0, 1] of the frame's width and height, from the top left.

    `score` in [0, 1]: the share of the map's mass near the peak, that is the share of gaze expected
    there. Near: within `REACH` of the width across and of the height down.
    """

    x: float
    y: float
    score: float


def find_peaks(saliency: Tensor, most: int = 5) -> tuple[Peak, ...]:
    """Return up to `most` peaks of a map (H, W), non-negative, by falling score.

    Neighbourhoods do not overlap: the higher of two near peaks is kept.
    """
    height, width = saliency.shape
    total, top = float(saliency.sum()), float(saliency.max())
    if not top > 0:
        return ()
    maxima = (saliency == cv2.dilate(saliency, np.ones((3, 3), np.uint8))) & (saliency >= LEAST * top)
    rows, columns = np.nonzero(maxima)
    order = np.argsort(-saliency[rows, columns], kind="stable")
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    reach = max(REACH, 1.5 / width)
    peaks: list[Peak] = []
    for index in order:
        row, column = rows[index], columns[index]
        cx, cy = (
            _refined(saliency[row], column) / width,
            _refined(saliency[:, column], row) / height,
        )
        if any((p.x - cx) ** 2 + (p.y - cy) ** 2 < (2 * reach) ** 2 for p in peaks):
            continue
        near = ((y - cy) ** 2)[:, None] + ((x - cx) ** 2)[None, :] <= reach**2
        peaks.append(Peak(cx, cy, float(saliency[near].sum()) / total))
        if len(peaks) == most:
            break
    return tuple(sorted(peaks, key=lambda peak: -peak.score))


def _refined(line: Tensor, at: int) -> float:
    """Return the maximum's place between pixels, by the parabola through it and its neighbours."""
    centre = at + 0.5
    if not 0 < at < len(line) - 1:
        return centre
    left, middle, right = (float(v) for v in line[at - 1 : at + 2])
    bend = left - 2 * middle + right
    return centre + (0.5 * (left - right) / bend if bend < 0 else 0.0)
