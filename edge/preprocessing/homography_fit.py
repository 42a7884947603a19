"""Robust fit of a homography to matched points, without random numbers.

Least squares are repeated with weights that fall with a point's error. At first large errors are allowed,
then ever smaller ones, so that outliers lose their weight step by step. This is graduated non-convexity
with the loss of Geman and McClure: Black and Rangarajan, "On the unification of line processes, outlier
rejection, and robust statistics", IJCV 19(1), 1996; Yang et al., "Graduated non-convexity for robust
spatial perception", IEEE RA-L 5(2), 2020. If the points change little, so does the result. RANSAC and its
variants choose one of several models by the points that they draw. docs/adr/0008-egomotion.md has the
measurements behind the constants.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_ERROR_PX = 1.5
"""Error of a point at which its weight is a quarter of the full one; below it, the point is an inlier."""
MIN_INLIERS = 8
"""Points that must agree with the homography."""
START_ERROR_PX = 6.0
"""`MAX_ERROR_PX` of the first step, which only knows a shift of the whole image."""
STEPS, ERROR_STEP = 6, 2.0
"""Least-squares steps, and the factor by which the error falls from one to the next."""
RIDGE = 0.001
"""Weight of the identity in each step, where a point has a weight of 1. With many points it does not count.
Few points, or points on a line, leave parameters undetermined; these stay near those of no motion."""


def fit_homography(
    source: NDArray[np.float32], target: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """Fit the homography that maps source points to target points.

    Args:
        source: Points (N, 1, 2) as x, y in pixels of an image.
        target: The matching points (N, 1, 2) in another image of the same size.
        shape: Height and width of the images.

    Returns:
        The homography (3, 3) between pixels; None if fewer than `MIN_INLIERS` points agree with it.
    """
    count = len(source)
    if count < MIN_INLIERS:
        return None
    to_unit, to_pixels = _normalization(shape[0], shape[1])
    scale, offset = to_unit[0, 0], to_unit[:2, 2:]
    # Two equations per point, linear in the eight parameters. Where the parameters do not fulfil them, the
    # difference is the error of the mapped point times a factor that is nearly 1, the homogeneous coordinate.
    equations = np.zeros((9, 2, count))
    equations[0:2, 0] = equations[3:5, 1] = source.reshape(count, 2).T * scale + offset
    equations[2, 0] = equations[5, 1] = 1
    equations[8] = target.reshape(count, 2).T * -scale - offset
    np.multiply(equations[0, 0], equations[8], out=equations[6])
    np.multiply(equations[1, 0], equations[8], out=equations[7])
    rows = equations.reshape(9, -1)

    # The first errors are those of the shift that most points share: each point's own shift is tried.
    shifts = equations[:2, 0] + equations[8]
    max_error, least_error = (START_ERROR_PX * scale) ** 2, (MAX_ERROR_PX * scale) ** 2
    all_errors = _sum_of_squares(shifts[:, :, None] - shifts[:, None])
    errors = all_errors[(max_error / (max_error + all_errors)).sum(axis=1).argmax()]
    parameters = np.ones(9)
    for _ in range(STEPS):
        weights = (max_error / (max_error + errors)) ** 2
        normal = (equations * weights).reshape(9, -1) @ rows.T + _RIDGE_TO_IDENTITY
        _, solution = cv2.solve(normal[:8, :8], normal[:8, 8:], flags=cv2.DECOMP_CHOLESKY)
        parameters[:8] = -solution[:, 0]
        errors = _sum_of_squares((parameters @ rows).reshape(2, count))
        max_error = max(max_error / ERROR_STEP**2, least_error)
    if np.count_nonzero(errors < least_error) < MIN_INLIERS:
        return None
    homography: NDArray[np.float64] = to_pixels @ parameters.reshape(3, 3) @ to_unit
    return homography


def _sum_of_squares(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared lengths (...) of vectors (2, ...)."""
    squares = vectors * vectors
    return np.asarray(squares[0] + squares[1], np.float64)


@lru_cache(maxsize=16)
def _normalization(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix (3, 3) from pixels to [-1, 1] along the longer side, and its inverse."""
    scale = 2 / max(height, width)
    to_unit = np.array(
        [[scale, 0, (1 - width) / 2 * scale], [0, scale, (1 - height) / 2 * scale], [0, 0, 1.0]]
    )
    return to_unit, np.linalg.inv(to_unit)


def _ridge_to_identity() -> NDArray[np.float64]:
    """Return the normal equations (9, 9) of the parameters of the identity, with the weight `RIDGE`."""
    identity = np.eye(3).ravel()[:8]
    equations = np.hstack([np.eye(8), -identity[:, None]])
    return np.asarray(RIDGE * equations.T @ equations, np.float64)


_RIDGE_TO_IDENTITY = _ridge_to_identity()
