"""Compensation of the camera's motion, so that only independently moving objects differ between frames.

Corners (Shi and Tomasi, CVPR 1994), one in each cell of a grid, are tracked with pyramidal Lucas-Kanade, and
a homography is fitted. From a drone, most corners lie on the ground, which is nearly a plane.
docs/adr/0008-egomotion.md has the measurements behind the constants.
"""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image
from edge.preprocessing.homography_fit import MIN_INLIERS, fit_homography

GRID_ROWS, GRID_COLUMNS = 6, 8
"""The strongest corner in each cell of this grid is tracked."""
MIN_CORNER_QUALITY = 0.003
"""Least strength of a corner, relative to the strongest one."""
MIN_CORNER_IMAGE_PX = 60
"""Corners are detected in an image that is halved while its longer side stays at this or more. Lucas-Kanade
refines them at full resolution, so detection does not need it. Sides of 256 are halved twice, of 160 once."""
LK_WINDOW_PX, LK_PYRAMID_LEVELS = 9, 3
"""Lucas-Kanade: window size, and number of times that the images are halved. OpenCV's vector code suits a
window of 9 pixels: 7 and 11 take half as long again. Three halvings follow fast turns."""
LK_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.1)
"""Lucas-Kanade stops after 10 iterations, or when a step is below 0.1 pixels."""

Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])


def align_frame(past: Image, now: Image) -> Image:
    """Warp `past` to the camera position of `now`.

    Pixels that `past` does not cover are taken from `now`. If the motion cannot be estimated (too few
    matching corners), the result is `now`, which shows no motion.

    Args:
        past: The earlier frame (H, W, 3), BGR.
        now: The current frame (H, W, 3), BGR.

    Returns:
        The warped frame (H, W, 3).
    """
    homography = estimate_homography(grey_image(past), grey_image(now))
    return now if homography is None else warp_frame(past, now, homography)


def grey_image(image: Image) -> Image:
    """Return the grey image (H, W) that motion is estimated on: the green channel of a BGR image.

    It is nearly the luma. And unlike the luma, it can be resized before or after with the same result, so
    that a host without the resized colours finds the same motion.
    """
    return np.asarray(cv2.extractChannel(image, 1), np.uint8)


def warp_frame(past: Pixels, now: Pixels, homography: NDArray[np.float64]) -> Pixels:
    """Warp `past` with a homography. Pixels that it does not cover are taken from `now`.

    Args:
        past: The earlier frame.
        now: The current frame, of the same shape.
        homography: Matrix (3, 3) from pixels of `now` to pixels of `past`.

    Returns:
        The warped frame.
    """
    # With four channels OpenCV takes half the time of three, for the same result.
    is_colour = past.dtype == np.uint8 and past.ndim == 3 and past.shape[2] == 3
    source, target = (
        cv2.cvtColor(image, cv2.COLOR_BGR2BGRA) if is_colour else image for image in (past, now)
    )
    warped = cv2.warpPerspective(
        source,
        homography,
        (now.shape[1], now.shape[0]),
        dst=target if is_colour else target.copy(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR) if is_colour else warped  # type: ignore[return-value]


def estimate_homography(before: Image, after: Image) -> NDArray[np.float64] | None:
    """Estimate the camera's motion between two grey images.

    Args:
        before: The earlier image (H, W).
        after: The later image (H, W).

    Returns:
        The homography (3, 3) from pixels of `after` to pixels of `before`; None if too few corners agree.
    """
    corners = _detect_corners(after)
    if len(corners) < MIN_INLIERS:
        return None
    tracked, status, _ = cv2.calcOpticalFlowPyrLK(
        after,
        before,
        corners,
        np.empty_like(corners),
        winSize=(LK_WINDOW_PX, LK_WINDOW_PX),
        maxLevel=LK_PYRAMID_LEVELS,
        criteria=LK_CRITERIA,
    )
    is_tracked = status[:, 0] == 1
    return fit_homography(corners[is_tracked], tracked[is_tracked], after.shape)


def _detect_corners(grey: Image) -> NDArray[np.float32]:
    """Return the strongest corner of each cell (N, 1, 2), as x, y in pixels of a grey image.

    A cell is left out if its strongest corner is below `MIN_CORNER_QUALITY`. An image that is smaller than
    the grid has no corners.
    """
    factor = 1
    while max(grey.shape) // 2 >= MIN_CORNER_IMAGE_PX:
        grey, factor = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), factor * 2  # type: ignore[assignment]
    height, width = grey.shape[0] // GRID_ROWS, grey.shape[1] // GRID_COLUMNS  # of a cell
    if not height or not width:
        return np.empty((0, 1, 2), np.float32)
    strength = cv2.cornerMinEigenVal(grey, blockSize=3)[: GRID_ROWS * height, : GRID_COLUMNS * width]
    cells = (
        strength.reshape(GRID_ROWS, height, GRID_COLUMNS, width).swapaxes(1, 2).reshape(-1, height * width)
    )
    strongest = cells.argmax(axis=1)
    cell = np.arange(len(cells))
    cell_strength = cells[cell, strongest]
    is_corner = cell_strength > MIN_CORNER_QUALITY * cell_strength.max()
    cell, strongest = cell[is_corner], strongest[is_corner]
    corners = np.empty((len(cell), 1, 2), np.float32)
    corners[:, 0, 0] = cell % GRID_COLUMNS * width + strongest % width
    corners[:, 0, 1] = cell // GRID_COLUMNS * height + strongest // width
    corners *= factor
    corners += (factor - 1) / 2  # between pixel centres
    return corners
