"""Regions of a map: boxes around what draws the gaze."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.core.frames import Tensor
from edge.postprocessing.peaks import Peak, find_peaks

EDGE = 0.5
"""A region ends where the map falls below this share of its peak: full width at half maximum."""
VALLEY = 0.8
"""Two peaks are one region if the map between them stays above this share of the lower one."""
SAMPLES = 17
"""Points of the map looked at between two peaks."""


@dataclass(frozen=True)
class Region:
    """What stands out of a map: a box and its centre of mass, in [0, 1] of the frame from the top left.

    `score` in [0, 1]: the share of the map's mass inside, that is the share of gaze expected there.
    `id`: the same from frame to frame, never used again; 0 before a tracker has seen it. `age_s`: since it
    was first seen. `coasting`: not seen in this frame; the box is where it should be.
    """

    x: float
    y: float
    left: float
    top: float
    right: float
    bottom: float
    score: float
    id: int = 0
    age_s: float = 0.0
    coasting: bool = False


def find_regions(saliency: Tensor, most: int = 5) -> tuple[Region, ...]:
    """Return up to `most` regions of a map (H, W), non-negative, by falling score; they do not overlap.

    A region is the connected part of the map around a peak that is at least `EDGE` times as high, and
    nearer to this peak than to any other.
    """
    total = float(saliency.sum())
    tops = _tops(saliency, most)
    regions = [_region(saliency, place, [p for p in tops if p != place], total) for place in tops]
    return tuple(sorted(regions, key=lambda region: -region.score))


def _tops(saliency: Tensor, most: int) -> list[tuple[int, int]]:
    """Return the pixels (row, column) of peaks with a valley between any two, the highest first."""
    height, width = saliency.shape

    def pixel(peak: Peak) -> tuple[int, int]:
        return min(int(peak.y * height), height - 1), min(int(peak.x * width), width - 1)

    kept: list[tuple[int, int]] = []
    for place in sorted(map(pixel, find_peaks(saliency, most)), key=lambda at: -saliency[at]):
        if all(_lowest_between(saliency, place, other) < VALLEY * saliency[place] for other in kept):
            kept.append(place)
    return kept


def _lowest_between(saliency: Tensor, a: tuple[int, int], b: tuple[int, int]) -> float:
    rows = np.rint(np.linspace(a[0], b[0], SAMPLES)).astype(np.intp)
    columns = np.rint(np.linspace(a[1], b[1], SAMPLES)).astype(np.intp)
    return float(saliency[rows, columns].min())


def _region(saliency: Tensor, place: tuple[int, int], others: list[tuple[int, int]], total: float) -> Region:
    height, width = saliency.shape
    mask = np.zeros((height + 2, width + 2), np.uint8)  # OpenCV's floodFill wants a rim of one pixel
    for other in others:
        _fence(mask, place, other)
    mask[place[0] + 1, place[1] + 1] = 0
    level = float(saliency[place])
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (2 << 8)
    _, _, _, (left, top, wide, high) = cv2.floodFill(
        saliency, mask, (place[1], place[0]), 0, (1 - EDGE) * level, level, flags
    )
    inside = mask[top + 1 : top + high + 1, left + 1 : left + wide + 1] == 2
    mass = np.where(inside, saliency[top : top + high, left : left + wide], 0)
    down, across = mass.sum(axis=1), mass.sum(axis=0)
    share = float(down.sum())
    return Region(
        x=(left + 0.5 + float(across @ np.arange(wide)) / share) / width,
        y=(top + 0.5 + float(down @ np.arange(high)) / share) / height,
        left=left / width,
        top=top / height,
        right=(left + wide) / width,
        bottom=(top + high) / height,
        score=min(1.0, share / total),
    )


def _fence(mask: np.ndarray, a: tuple[int, int], b: tuple[int, int]) -> None:
    """Draw the line of points as far from `a` as from `b` into the mask: a flood does not cross it."""
    middle_y, middle_x = (a[0] + b[0]) / 2 + 1, (a[1] + b[1]) / 2 + 1
    down, across = b[0] - a[0], b[1] - a[1]
    stretch = sum(mask.shape) / math.hypot(down, across)
    one = round(middle_x - down * stretch), round(middle_y + across * stretch)
    two = round(middle_x + down * stretch), round(middle_y - across * stretch)
    cv2.line(mask, one, two, 1)
