"""Regions of a saliency map: boxes around the parts that attract the gaze."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Tensor
from edge.metrics.score_calibration import ScoreCalibration, map_focus
from edge.postprocessing.peaks import Peak, find_peaks

EDGE_SHARE = 0.5
"""A region ends where the map falls below this share of its peak: full width at half maximum."""
VALLEY_SHARE = 0.8
"""Two peaks belong to one region if the map between them stays above this share of the lower peak."""
VALLEY_SAMPLES = 17
"""Points of the map that are examined between two peaks."""

Pixel = tuple[int, int]
"""Row and column."""


@dataclass(frozen=True)
class Region:
    """A region of a map. Positions are in [0, 1] of the frame's width and height, from the top left.

    Attributes:
        x: Horizontal position of the centre of mass.
        y: Vertical position of the centre of mass.
        left: Left side of the box.
        top: Top side of the box.
        right: Right side of the box.
        bottom: Bottom side of the box.
        score: Probability that the region marks a target, in [0, 1]; without a calibration the `share`.
        id: Id that stays the same from frame to frame and is never used again; 0 before tracking.
        age_s: Seconds since the region was first seen.
        coasting: The region was not seen in this frame; the box is its predicted position.
        share: Share of the map's mass inside, in [0, 1]: the share of gaze expected there.
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
    share: float = 0.0


def find_regions(
    saliency: Tensor, max_count: int = 5, calibration: ScoreCalibration | None = None
) -> tuple[Region, ...]:
    """Return the regions of a map, sorted by falling share of it; they do not overlap.

    A region is the connected part of the map around a peak that is at least `EDGE_SHARE` times as high as the
    peak and nearer to it than to any other peak.

    Args:
        saliency: Map (H, W), non-negative.
        max_count: Number of regions at most.
        calibration: Calibration of the scores; None scores each region by its share.
    """
    total = float(saliency.sum())
    peaks = _separate_peaks(saliency, max_count)
    focus = map_focus(saliency) if calibration and peaks else 0.0

    def score(share: float) -> float:
        return calibration.score(share, focus) if calibration else share

    regions = [
        _grow_region(saliency, peak, [other for other in peaks if other != peak], total, score)
        for peak in peaks
    ]
    return tuple(sorted(regions, key=lambda region: -region.share))


def _separate_peaks(saliency: Tensor, max_count: int) -> list[Pixel]:
    """Return the pixels of the peaks with a valley between any two of them, the highest first."""
    height, width = saliency.shape

    def pixel(peak: Peak) -> Pixel:
        return min(int(peak.y * height), height - 1), min(int(peak.x * width), width - 1)

    separate: list[Pixel] = []
    for peak in sorted(map(pixel, find_peaks(saliency, max_count)), key=lambda at: -saliency[at]):
        valleys = (_lowest_between(saliency, peak, other) for other in separate)
        if all(valley < VALLEY_SHARE * saliency[peak] for valley in valleys):
            separate.append(peak)
    return separate


def _lowest_between(saliency: Tensor, a: Pixel, b: Pixel) -> float:
    rows = np.rint(np.linspace(a[0], b[0], VALLEY_SAMPLES)).astype(np.intp)
    columns = np.rint(np.linspace(a[1], b[1], VALLEY_SAMPLES)).astype(np.intp)
    return float(saliency[rows, columns].min())


def _grow_region(
    saliency: Tensor, peak: Pixel, others: list[Pixel], total: float, score: Callable[[float], float]
) -> Region:
    height, width = saliency.shape
    mask = np.zeros((height + 2, width + 2), np.uint8)  # OpenCV's floodFill needs a border of one pixel
    for other in others:
        _draw_border(mask, peak, other)
    mask[peak[0] + 1, peak[1] + 1] = 0  # a border to a near peak may cover the peak itself
    level = float(saliency[peak])
    inside_value = 2
    # Four neighbours, so that the fill does not slip through a diagonal border.
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (inside_value << 8)
    _, _, _, (left, top, box_width, box_height) = cv2.floodFill(
        saliency, mask, (peak[1], peak[0]), 0, (1 - EDGE_SHARE) * level, level, flags
    )
    is_inside = mask[top + 1 : top + box_height + 1, left + 1 : left + box_width + 1] == inside_value
    mass = np.where(is_inside, saliency[top : top + box_height, left : left + box_width], 0)
    row_mass, column_mass = mass.sum(axis=1), mass.sum(axis=0)
    region_mass = float(row_mass.sum())
    share = min(1.0, region_mass / total)
    return Region(
        x=(left + 0.5 + float(column_mass @ np.arange(box_width)) / region_mass) / width,
        y=(top + 0.5 + float(row_mass @ np.arange(box_height)) / region_mass) / height,
        left=left / width,
        top=top / height,
        right=(left + box_width) / width,
        bottom=(top + box_height) / height,
        score=score(share),
        share=share,
    )


def _draw_border(mask: NDArray[np.uint8], a: Pixel, b: Pixel) -> None:
    """Draw the perpendicular bisector of two peaks into the mask, so that the fill does not cross it."""
    middle_y, middle_x = (a[0] + b[0]) / 2 + 1, (a[1] + b[1]) / 2 + 1
    down, across = b[0] - a[0], b[1] - a[1]
    factor = sum(mask.shape) / math.hypot(down, across)
    start = round(middle_x - down * factor), round(middle_y + across * factor)
    end = round(middle_x + down * factor), round(middle_y - across * factor)
    cv2.line(mask, start, end, 1)
