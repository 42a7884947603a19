"""Boxes of all frames from the boxes of the annotated ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels, from the top left of the frame."""


def interpolate_boxes(annotated: Mapping[int, Box | None], frames: int) -> NDArray[np.float64]:
    """Return a box for each frame (frames, 4), linear between two annotated frames; NaN where there is none.

    A frame has no box before the first annotated frame, after the last one, and next to an annotated frame in
    which the target is not visible.

    Args:
        annotated: Box by frame; None where the target is not visible.
        frames: Number of frames.
    """
    boxes = np.full((frames, 4), np.nan)
    for index, box in annotated.items():
        if box is not None:
            boxes[index] = box
    for first, second in pairwise(sorted(annotated)):
        start, end = annotated[first], annotated[second]
        if start is not None and end is not None:
            share = (np.arange(first, second) - first)[:, None] / (second - first)
            boxes[first:second] = np.array(start) * (1 - share) + np.array(end) * share
    return boxes
