"""The camera's motion is taken out; what moves by itself is left."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.preprocessing.egomotion import Image, align_frame
from edge.preprocessing.transform import Alignment, FramePreprocessor, Preprocessing
from edge.simulation.world import World

SIZE = (256, 144)


def ground(seed: int) -> Image:
    """A textured plane, larger than a frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (500, 300), interpolation=cv2.INTER_CUBIC), np.uint8)


def seen_from(plane: Image, angle: float, zoom: float, dx: float, dy: float) -> Image:
    matrix = cv2.getRotationMatrix2D((250, 150), angle, zoom)
    matrix[:, 2] += np.array([dx - 122, dy - 78])
    return np.asarray(cv2.warpAffine(plane, matrix, SIZE, flags=cv2.INTER_LINEAR), np.uint8)


def gap(a: Image, b: Image) -> np.ndarray:
    return np.asarray(np.abs(a.astype(np.float32) - b).sum(axis=2))


@pytest.mark.parametrize("view", [(0, 1, 6, -4), (4, 1, 0, 0), (0, 1.06, 3, 3), (-3, 0.95, -8, 5)])
def test_a_plane_stands_still_and_a_thing_on_it_does_not(view: tuple[float, float, float, float]) -> None:
    plane = ground(1)
    now = seen_from(plane, *view)
    painted = plane.copy()
    cv2.circle(painted, (240, 150), 6, (255, 255, 255), -1)
    past = seen_from(painted, 0, 1, 0, 0)
    still = gap(align_frame(seen_from(plane, 0, 1, 0, 0), now), now)[20:-20, 20:-20]
    assert still.mean() < 0.15 * gap(seen_from(plane, 0, 1, 0, 0), now)[20:-20, 20:-20].mean()
    left = gap(align_frame(past, now), now)[20:-20, 20:-20]
    assert np.sort(left.ravel())[-60:].mean() > 5 * still.mean()


def test_without_corners_nothing_seems_to_move() -> None:
    flat = np.full((144, 256, 3), 90, np.uint8)
    np.testing.assert_array_equal(align_frame(flat, flat + 40), flat + 40)
    noise = np.random.default_rng(0).integers(0, 255, (2, 144, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align_frame(*noise), noise[1])  # no homography is agreed on


def test_of_the_made_world_only_what_moves_is_left() -> None:
    ratios = []
    for seed in range(20):
        world = World(seed, *SIZE, twins=True)
        past, now = world.frame(0).image, world.frame(3).image
        ratios.append(gap(align_frame(past, now), now).mean() / max(float(gap(past, now).mean()), 1e-6))
    assert np.median(ratios) < 0.6


def test_an_eye_looks_back_by_its_lag() -> None:
    prepare = Preprocessing(64, 64, alignment=Alignment(0.3))
    world = World(3, 640, 360)
    frames = [world.frame(index).image for index in range(5)]
    eye = FramePreprocessor(prepare, fps=10)
    for index, frame in enumerate(frames):
        shown = eye(frame)
        window = prepare.stack_window(frames[max(0, index - 3) : index + 1])
        assert shown.shape == (2, 3, 64, 64)
        np.testing.assert_array_equal(shown[0], window[0, :, 1])
        np.testing.assert_array_equal(shown[1], window[0, :, 0])
    plain = FramePreprocessor(Preprocessing(64, 64), fps=10)
    np.testing.assert_array_equal(plain(frames[0]), Preprocessing(64, 64)(frames[0]))
