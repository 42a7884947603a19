"""A proxy for aerial gaze: how a map ranks the one target that somebody tracked. Not eye data."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def box_auc(saliency: NDArray[Any], box: NDArray[np.floating], width: int, height: int) -> float:
    """Return the probability that a pixel of the box outranks a pixel of the frame (ties a half).

    `box` is x, y, w, h in pixels of the width x height frame, to which the map is stretched.
    """
    stretched = cv2.resize(saliency.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    x, y, w, h = box
    left, top = max(int(x), 0), max(int(y), 0)
    inside = stretched[top : max(int(np.ceil(y + h)), top + 1), left : max(int(np.ceil(x + w)), left + 1)]
    ranked = np.sort(stretched, axis=None)
    below = np.searchsorted(ranked, inside, "left") + np.searchsorted(ranked, inside, "right")
    return float(below.mean() / 2 / ranked.size)
