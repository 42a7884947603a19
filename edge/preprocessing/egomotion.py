"""Compensation of the camera's motion, so that only independently moving objects differ between frames.

Corners (Shi and Tomasi, CVPR 1994) are tracked with pyramidal Lucas-Kanade, and a homography is fitted with
USAC, OpenCV's family of RANSAC variants. From a drone, most corners lie on the ground, which is nearly a
plane. docs/adr/0008-egomotion.md has the measurements behind the constants.
"""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image

MAX_CORNERS, MIN_CORNER_QUALITY, MIN_CORNER_DISTANCE_PX = 60, 0.003, 6
"""Corner detection; the quality is relative to the strongest corner."""
MIN_CORNER_IMAGE_PX = 80
"""Corners are detected in an image that is halved while its longer side stays at this or more. Lucas-Kanade
refines them at full resolution, so detection does not need it. Sides of 256 and 160 are halved once."""
LK_WINDOW_PX, LK_PYRAMID_LEVELS = 9, 3
"""Lucas-Kanade: window size, and number of times that the images are halved. OpenCV's vector code suits a
window of 9 pixels: 7 and 11 take half as long again. Three halvings follow fast turns."""
LK_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 10, 0.03)
"""Lucas-Kanade stops after 10 iterations, or when a step is below 0.03 pixels."""
MIN_INLIERS = 8
"""Corners that must agree with the homography."""
MAX_REPROJECTION_PX = 1.0
"""Largest error of an inlier."""
USAC_ITERATIONS = 200

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
    """Estimate the camera's motion between two grey images (H, W).

    Returns:
        The homography (3, 3) from pixels of `after` to pixels of `before`; None if too few corners agree.
    """
    corners = _detect_corners(after)
    if corners is None or len(corners) < MIN_INLIERS:
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
    if is_tracked.sum() < MIN_INLIERS:
        return None
    homography, inliers = cv2.findHomography(
        corners[is_tracked],
        tracked[is_tracked],
        cv2.USAC_FAST,
        MAX_REPROJECTION_PX,
        maxIters=USAC_ITERATIONS,
    )
    if homography is None or inliers.sum() < MIN_INLIERS:
        return None
    return np.asarray(homography, np.float64)


def _detect_corners(grey: Image) -> NDArray[np.float32] | None:
    """Return corners (N, 1, 2) of a grey image as x, y in its pixels; None if it has none."""
    factor = 1
    while max(grey.shape) // 2 >= MIN_CORNER_IMAGE_PX:
        grey, factor = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), factor * 2  # type: ignore[assignment]
    corners = cv2.goodFeaturesToTrack(grey, MAX_CORNERS, MIN_CORNER_QUALITY, MIN_CORNER_DISTANCE_PX)
    if corners is None:
        return None
    return np.asarray(corners * factor + (factor - 1) / 2, np.float32)  # between pixel centres
