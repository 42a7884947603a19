"""Annotations on a frame: brackets around regions, with their id and score."""

from __future__ import annotations

import math

import cv2

from edge.core.frames import Image
from edge.postprocessing.regions import Region
from edge.postprocessing.result import Result

DARK, WHITE, GREY, LABEL_TEXT = (0, 0, 0), (255, 255, 255), (190, 190, 190), (30, 22, 10)
FOLLOWED_COLOUR = (255, 230, 90)
"""BGR of the region to follow: light blue, which the heat map does not contain."""
ARM_SHARE = 0.28
"""Length of a bracket's arms, relative to the shorter side of the box."""
FONT = cv2.FONT_HERSHEY_DUPLEX
REFERENCE_DIAGONAL_PX = 1500
"""Diagonal of a picture on which line widths are in pixels; they scale with it."""

PixelPoint = tuple[int, int]
Colour = tuple[int, int, int]


def draw_annotations(image: Image, result: Result, followed_id: int | None = None) -> None:
    """Draw the regions of a result onto a picture of its frame; a result without regions draws nothing.

    Args:
        image: Picture (H, W, 3), BGR, to draw onto.
        result: The result.
        followed_id: Id of the region that is followed; None for the first one.
    """
    height, width = image.shape[:2]
    unit = math.hypot(width, height) / REFERENCE_DIAGONAL_PX
    chosen = (each for each in result.regions if followed_id is None or each.id == followed_id)
    followed = next(chosen, None)
    # The first regions lie on top of others, and the one to follow on top of all.
    others = [each for each in reversed(result.regions) if each is not followed]
    for region in others if followed is None else [*others, followed]:
        is_followed = region is followed
        colour = FOLLOWED_COLOUR if is_followed else GREY if region.coasting else WHITE
        _draw_bracket(image, region, colour, unit)


def draw_line(image: Image, first: tuple[float, float], last: tuple[float, float]) -> None:
    """Draw a thin line between two points in relative coordinates, such as the horizon."""
    height, width = image.shape[:2]
    unit = math.hypot(width, height) / REFERENCE_DIAGONAL_PX
    ends = [(round(x * width), round(y * height)) for x, y in (first, last)]
    for stroke, thickness in ((DARK, 3 * unit), (WHITE, 1.2 * unit)):
        cv2.line(image, ends[0], ends[1], stroke, max(1, round(thickness)), cv2.LINE_AA)


def _draw_bracket(image: Image, region: Region, colour: Colour, unit: float) -> None:
    """Draw the corners of a region's box: thin if it is coasting, else with a dark rim and a label."""
    height, width = image.shape[:2]
    margin = 6 * unit
    left, right = region.left * width - margin, region.right * width + margin
    top, bottom = region.top * height - margin, region.bottom * height + margin
    arm = max(ARM_SHARE * min(right - left, bottom - top), 6 * unit)
    corners: list[tuple[float, float, int, int]] = [
        (left, top, 1, 1),
        (right, top, -1, 1),
        (left, bottom, 1, -1),
        (right, bottom, -1, -1),
    ]
    rimmed = [(DARK, 5 * unit), (colour, 2.4 * unit)]
    for stroke, thickness in [(colour, 1.2 * unit)] if region.coasting else rimmed:
        for x, y, across, down in corners:
            corner = round(x), round(y)
            for end in ((round(x + across * arm), corner[1]), (corner[0], round(y + down * arm))):
                cv2.line(image, corner, end, stroke, max(1, round(thickness)), cv2.LINE_AA)
    if not region.coasting:
        _draw_label(image, f"{region.id}  {region.score:.0%}", (round(left), round(top)), colour, unit)


def _draw_label(image: Image, text: str, corner: PixelPoint, colour: Colour, unit: float) -> None:
    """Draw a label above a corner, or below it where the picture has no room above."""
    scale = max(0.34, 0.78 * unit)
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, scale, 1)
    padding = round(text_height * 0.55)
    x = min(max(corner[0], 0), max(0, image.shape[1] - text_width - 2 * padding))
    y = corner[1] - text_height - 3 * padding
    y = y if y >= 0 else max(corner[1], 0) + padding
    far_corner = x + text_width + 2 * padding, y + text_height + 2 * padding
    cv2.rectangle(image, (x, y), far_corner, colour, cv2.FILLED)
    baseline = x + padding, y + text_height + padding
    cv2.putText(image, text, baseline, FONT, scale, LABEL_TEXT, 1, cv2.LINE_AA)
