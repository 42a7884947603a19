"""Compensation of the camera's motion keeps only objects that move independently."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.core.frames import Image
from edge.preprocessing.egomotion import align_frame
from edge.preprocessing.transform import Alignment, FramePreprocessor, Preprocessing
from edge.simulation.world import World

SIZE = (256, 144)


def make_plane(seed: int) -> Image:
    """Return a textured plane that is larger than a frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (500, 300), interpolation=cv2.INTER_CUBIC), np.uint8)


def view_plane(plane: Image, angle: float, zoom: float, dx: float, dy: float) -> Image:
    matrix = cv2.getRotationMatrix2D((250, 150), angle, zoom)
    matrix[:, 2] += np.array([dx - 122, dy - 78])
    return np.asarray(cv2.warpAffine(plane, matrix, SIZE, flags=cv2.INTER_LINEAR), np.uint8)


def difference(a: Image, b: Image) -> np.ndarray:
    return np.asarray(np.abs(a.astype(np.float32) - b).sum(axis=2))


@pytest.mark.parametrize("view", [(0, 1, 6, -4), (4, 1, 0, 0), (0, 1.06, 3, 3), (-3, 0.95, -8, 5)])
def test_alignment_cancels_the_motion_of_a_plane_and_keeps_that_of_an_object(
    view: tuple[float, float, float, float],
) -> None:
    plane = make_plane(1)
    now = view_plane(plane, *view)
    painted = plane.copy()
    cv2.circle(painted, (240, 150), 6, (255, 255, 255), -1)
    past = view_plane(painted, 0, 1, 0, 0)
    still = difference(align_frame(view_plane(plane, 0, 1, 0, 0), now), now)[20:-20, 20:-20]
    assert still.mean() < 0.15 * difference(view_plane(plane, 0, 1, 0, 0), now)[20:-20, 20:-20].mean()
    moving = difference(align_frame(past, now), now)[20:-20, 20:-20]
    assert np.sort(moving.ravel())[-60:].mean() > 5 * still.mean()


def test_frame_without_matching_corners_aligns_to_the_current_one() -> None:
    flat = np.full((144, 256, 3), 90, np.uint8)
    np.testing.assert_array_equal(align_frame(flat, flat + 40), flat + 40)
    noise = np.random.default_rng(0).integers(0, 255, (2, 144, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align_frame(*noise), noise[1])  # no homography with enough inliers


def test_alignment_reduces_differences_in_the_synthetic_world() -> None:
    ratios = []
    for seed in range(20):
        world = World(seed, *SIZE, twins=True)
        past, now = world.frame(0).image, world.frame(3).image
        ratios.append(
            difference(align_frame(past, now), now).mean() / max(float(difference(past, now).mean()), 1e-6)
        )
    assert np.median(ratios) < 0.6


def test_frame_preprocessor_returns_the_frame_and_the_lagged_one() -> None:
    prepare = Preprocessing(64, 64, alignment=Alignment(0.3))
    world = World(3, 640, 360)
    frames = [world.frame(index).image for index in range(5)]
    preprocessor = FramePreprocessor(prepare, fps=10)
    for index, frame in enumerate(frames):
        tensor = preprocessor(frame)
        window = prepare.stack_window(frames[max(0, index - 3) : index + 1])
        assert tensor.shape == (2, 3, 64, 64)
        np.testing.assert_array_equal(tensor[0], window[0, :, 1])
        np.testing.assert_array_equal(tensor[1], window[0, :, 0])
    plain = FramePreprocessor(Preprocessing(64, 64), fps=10)
    np.testing.assert_array_equal(plain(frames[0]), Preprocessing(64, 64)(frames[0]))
