"""Marks on a picture: regions as brackets with id and share of gaze; without regions, rings at peaks."""

from __future__ import annotations

import math

import cv2

from edge.core.frames import Image
from edge.postprocessing.peaks import find_peaks
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result

DARK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (190, 190, 190)
FOLLOWED = (255, 230, 90)
"""BGR of the region to follow: a light blue, which the heat map has not."""
ARM = 0.28
"""Length of a bracket's arms, of the box's shorter side."""
FONT = cv2.FONT_HERSHEY_DUPLEX

PixelPoint = tuple[int, int]


def draw_annotations(image: Image, result: Result) -> None:
    """Draw onto the picture (H, W, 3), BGR, of the result's frame; lines scale with its diagonal."""
    height, width = image.shape[:2]
    unit = math.hypot(width, height) / 1500
    for region in reversed(result.regions):  # the one to follow lies on top
        first = region is result.regions[0]
        _bracket(image, region, FOLLOWED if first else GREY if region.coasting else WHITE, unit)
    if result.regions:
        return
    for peak in find_peaks(result.saliency):
        centre = (round(peak.x * width), round(peak.y * height))
        radius = round((12 + 40 * peak.score) * unit)
        cv2.circle(image, centre, radius, DARK, max(1, round(4 * unit)), cv2.LINE_AA)
        cv2.circle(image, centre, radius, WHITE, max(1, round(2 * unit)), cv2.LINE_AA)


def _bracket(image: Image, region: Region, colour: tuple[int, int, int], unit: float) -> None:
    height, width = image.shape[:2]
    margin = 6 * unit
    left, right = region.left * width - margin, region.right * width + margin
    top, bottom = region.top * height - margin, region.bottom * height + margin
    arm = max(ARM * min(right - left, bottom - top), 6 * unit)
    corners: list[tuple[float, float, int, int]] = [
        (left, top, 1, 1),
        (right, top, -1, 1),
        (left, bottom, 1, -1),
        (right, bottom, -1, -1),
    ]
    strokes = [(DARK, 5 * unit), (colour, 2.4 * unit)]
    for tone, thickness in [(colour, 1.2 * unit)] if region.coasting else strokes:
        for x, y, across, down in corners:
            at = round(x), round(y)
            for end in ((round(x + across * arm), at[1]), (at[0], round(y + down * arm))):
                cv2.line(image, at, end, tone, max(1, round(thickness)), cv2.LINE_AA)
    if not region.coasting:
        _label(image, f"{region.id}  {region.score:.0%}", (round(left), round(top)), colour, unit)


def _label(image: Image, text: str, corner: PixelPoint, colour: tuple[int, int, int], unit: float) -> None:
    """Write above the corner, or under it where the picture ends."""
    scale = max(0.34, 0.78 * unit)
    (wide, high), _ = cv2.getTextSize(text, FONT, scale, 1)
    pad = round(high * 0.55)
    x = min(max(corner[0], 0), max(0, image.shape[1] - wide - 2 * pad))
    y = corner[1] - high - 3 * pad
    y = y if y >= 0 else max(corner[1], 0) + pad
    cv2.rectangle(image, (x, y), (x + wide + 2 * pad, y + high + 2 * pad), colour, cv2.FILLED)
    cv2.putText(image, text, (x + pad, y + high + pad), FONT, scale, (30, 22, 10), 1, cv2.LINE_AA)
