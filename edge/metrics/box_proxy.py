"""Box scores: how a map ranks the one tracked target of a frame, as a proxy for aerial gaze.

No eye movements were recorded; say so wherever these scores are printed. Only one target per frame has a box,
so maps that highlight other targets are penalised. Average over the frames of a sequence first, then over
sequences.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.saliency import auc

BLUR = 0.04
"""Standard deviation of the Gaussian of zblur, in map widths."""
MARGIN, MARGIN_PX = 0.25, 12.0
"""Growth of the box for hit, the larger of the two: as a fraction of its side, and in pixels of the frame."""


class BoxScores(NamedTuple):
    """Scores of one frame; each is NaN if the target is not visible.

    Attributes:
        auc: Probability that a pixel in the box exceeds a pixel of the frame; ties count one half.
        z: Mean z-score of the map inside the box; 0 if the map is constant.
        zblur: z after a Gaussian blur of the map, mirrored at its edges. z alone rewards sharp maps.
        hit: 1 if the peak of the map lies in the grown box, else 0. The peak is the first pixel of largest
            value, row by row; a constant map has none. Each side of the box grows about its centre by the
            larger of 25 % and 12 px.
    """

    auc: float
    z: float
    zblur: float
    hit: float


def box_scores(saliency: NDArray[Any], box: NDArray[np.floating], width: int, height: int) -> BoxScores:
    """Return the box scores of one frame.

    The map is resized to the frame, linearly between pixel centres; the blur of zblur comes before. A pixel
    belongs to the box if any part of it does: columns floor(x) to ceil(x + w), at least one. All scores are
    NaN if the box contains NaN or lies outside the frame.

    Args:
        saliency: Map (h, w).
        box: x, y, w, h in pixels of the frame.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.

    Raises:
        InputError: The map does not have two dimensions, or the box is not four numbers.
    """
    if np.ndim(saliency) != 2 or np.shape(box) != (4,):
        raise InputError(
            f"a map has shape {np.shape(saliency)} and its box {np.shape(box)}, expected (H, W) and (4,): "
            "give one frame's map and x, y, w, h"
        )
    x, y, w, h = (float(side) for side in box)
    if np.isnan(box).any() or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return BoxScores(*[float("nan")] * 4)
    inside = (_pixel_range(y, h), _pixel_range(x, w))
    small = saliency.astype(np.float32)
    resized = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    blurred = cv2.GaussianBlur(small, (0, 0), BLUR * small.shape[1])
    blurred = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    row, column = np.unravel_index(resized.argmax(), resized.shape)
    is_hit = (
        _is_in_grown_range(column + 0.5, x, w)
        and _is_in_grown_range(row + 0.5, y, h)
        and resized.max() > resized.min()
    )
    return BoxScores(
        auc=auc(resized[inside], resized),
        z=_mean_z_score(resized, inside),
        zblur=_mean_z_score(blurred, inside),
        hit=float(is_hit),
    )


def _pixel_range(start: float, length: float) -> slice:
    first = max(int(start), 0)
    return slice(first, max(int(np.ceil(start + length)), first + 1))


def _is_in_grown_range(position: float, start: float, length: float) -> bool:
    margin = max(MARGIN * length, MARGIN_PX) / 2
    return start - margin <= position <= start + length + margin


def _mean_z_score(saliency: NDArray[Any], inside: tuple[slice, slice]) -> float:
    deviation = float(saliency.std(dtype=np.float64))
    if saliency.max() == saliency.min():
        return 0.0
    return (
        float(saliency[inside].mean(dtype=np.float64)) - float(saliency.mean(dtype=np.float64))
    ) / deviation
