"""Robust fit of a homography: outliers do not count, and small changes of the points change little."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.preprocessing.homography_fit import MIN_INLIERS, fit_homography

SHAPE = (144, 256)
HOMOGRAPHIES = {
    "still": np.eye(3),
    "pan": np.array([[1, 0, 30], [0, 1, -12], [0, 0, 1.0]]),
    "roll and zoom": np.array([[1.04, -0.08, 3], [0.08, 1.04, -6], [0, 0, 1.0]]),
    "tilt": np.array([[0.97, 0.03, 5], [0.01, 0.98, 9], [2e-4, -3e-4, 1.0]]),
}


def make_points(seed: int, count: int = 48) -> np.ndarray:
    """Return points (N, 1, 2) spread over the image."""
    return np.random.default_rng(seed).uniform((0, 0), SHAPE[::-1], (count, 1, 2)).astype(np.float32)


def move(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.perspectiveTransform(points, homography), np.float32)


def largest_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance of where two homographies move the corners of the image, in pixels."""
    corners = np.array([[[0, 0]], [[255, 0]], [[0, 143]], [[255, 143]]], np.float64)
    return float(
        np.linalg.norm(
            cv2.perspectiveTransform(corners, a) - cv2.perspectiveTransform(corners, b), axis=2
        ).max()
    )


@pytest.mark.parametrize("name", HOMOGRAPHIES)
def test_homography_of_exact_points_is_found(name: str) -> None:
    points = make_points(0)
    homography = fit_homography(points, move(points, HOMOGRAPHIES[name]), SHAPE)
    assert homography is not None
    assert largest_gap(homography, HOMOGRAPHIES[name]) < 0.02


@pytest.mark.parametrize("name", HOMOGRAPHIES)
def test_two_fifths_of_outliers_and_noise_leave_half_a_pixel(name: str) -> None:
    rng = np.random.default_rng(1)
    points = make_points(1, 60)
    target = move(points, HOMOGRAPHIES[name]) + rng.normal(0, 0.1, points.shape).astype(np.float32)
    target[:24] = rng.uniform((0, 0), SHAPE[::-1], (24, 1, 2))
    homography = fit_homography(points, target, SHAPE)
    assert homography is not None
    assert largest_gap(homography, HOMOGRAPHIES[name]) < 0.5


def test_rounding_of_the_points_moves_the_image_by_no_more_than_it() -> None:
    """Other processors round otherwise. A vote of sampled models would jump between models here."""
    rng = np.random.default_rng(2)
    points = make_points(2)
    target = move(points, HOMOGRAPHIES["tilt"]) + rng.normal(0, 0.5, points.shape).astype(np.float32)
    target[:16] += rng.normal(0, 20, (16, 1, 2)).astype(np.float32)
    first = fit_homography(points, target, SHAPE)
    assert first is not None
    for _ in range(20):
        rounding = rng.uniform(-0.01, 0.01, points.shape).astype(np.float32)
        again = fit_homography(points, target + rounding, SHAPE)
        assert again is not None
        assert largest_gap(first, again) < 0.05


def test_points_that_do_not_agree_give_no_homography() -> None:
    points = make_points(3)
    assert fit_homography(points, make_points(4), SHAPE) is None
    few = points[: MIN_INLIERS - 1]
    assert fit_homography(few, few, SHAPE) is None
    assert fit_homography(points[:0], points[:0], SHAPE) is None


def test_points_on_one_line_or_in_one_place_move_the_rest_of_the_image_little() -> None:
    line = np.stack([np.linspace(8, 248, 20), np.full(20, 72.0)], axis=1)[:, None].astype(np.float32)
    place = np.full((20, 1, 2), 40, np.float32)
    shift = np.array([[1, 0, 6], [0, 1, 2], [0, 0, 1.0]])
    for points in (line, place):
        homography = fit_homography(points, move(points, shift), SHAPE)
        assert homography is not None
        assert largest_gap(homography, shift) < 8
