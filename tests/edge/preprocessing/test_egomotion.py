"""Compensation of the camera's motion keeps only objects that move independently."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.core.frames import Image
from edge.preprocessing.egomotion import align_frame, estimate_homography, warp_frame
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


def displacement(homography: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return where a homography moves the pixels of a mask (N, 2)."""
    rows, columns = np.nonzero(ground)
    points = np.stack([columns, rows], axis=-1)[:, None].astype(np.float64)
    return np.asarray(cv2.perspectiveTransform(points, homography)[:, 0])


@pytest.mark.parametrize(("lag_s", "limit_px"), [(0.02, 0.3), (0.3, 0.5), (0.5, 0.5)])
def test_estimated_motion_is_that_of_the_synthetic_camera(lag_s: float, limit_px: float) -> None:
    """From 0.02 s, one frame at 50 per second, to 0.5 s, one frame at 2 per second. Half of the scenes are
    within a fraction of a pixel; in others, water or walls are in view."""
    pixel_indices = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    errors = []
    for seed in range(1000, 1012):
        world = World(seed, *SIZE, fps=1 / lag_s)
        before, after = (
            np.asarray(cv2.cvtColor(world.frame(index).image, cv2.COLOR_BGR2GRAY), np.uint8)
            for index in (3, 4)
        )
        to_before, to_after = (
            pixel_indices @ world._camera(index * lag_s).ground_to_pixel() for index in (3, 4)
        )
        exact = to_before @ np.linalg.inv(to_after)
        ground = world._camera(4 * lag_s).sine_below_horizon(*SIZE) > 0.05
        estimated = estimate_homography(before, after)
        if estimated is not None and ground.sum() > 1000:
            offsets = displacement(estimated, ground) - displacement(exact, ground)
            errors.append(float(np.median(np.linalg.norm(offsets, axis=1))))
    assert len(errors) >= 8
    assert np.median(errors) < limit_px


@pytest.mark.parametrize("shift", [(0, 0), (48, -20), (-48, 10)])
def test_still_camera_and_fast_turns_are_followed_to_a_fraction_of_a_pixel(shift: tuple[int, int]) -> None:
    """A turn of 48 of 256 pixels in 0.3 s is 40 degrees per second with a lens of 64 degrees."""
    rng = np.random.default_rng(2)
    plane = np.zeros((300, 500, 3), np.float32)
    for octave in range(6):  # texture at all scales, as the ground has
        layer = rng.uniform(0, 255, (3 << octave, 5 << octave)).astype(np.float32)
        plane += cv2.resize(layer, (500, 300), interpolation=cv2.INTER_CUBIC)[..., None] / 6
    views = [view_plane(plane.clip(0, 255).astype(np.uint8), 0, 1, *move) for move in ((0, 0), shift)]
    before, after = (np.asarray(cv2.cvtColor(view, cv2.COLOR_BGR2GRAY), np.uint8) for view in views)
    homography = estimate_homography(before, after)
    assert homography is not None
    everywhere = np.ones(SIZE[::-1], np.bool_)
    moved = displacement(homography, everywhere) - displacement(np.eye(3), everywhere)
    np.testing.assert_allclose(np.median(moved, axis=0), (-shift[0], -shift[1]), atol=0.1)


def test_still_camera_with_sensor_noise_shows_hardly_any_motion() -> None:
    view = view_plane(make_plane(3), 0, 1, 0, 0)
    noise = np.random.default_rng(0).normal(0, 2, (2, *view.shape))
    past, now = [np.asarray(np.clip(view + layer, 0, 255), np.uint8) for layer in noise]
    assert difference(align_frame(past, now), now).mean() <= 1.1 * difference(past, now).mean()


def test_corners_on_one_line_and_tiny_images_give_no_motion_or_none_at_all() -> None:
    image = np.full((144, 256), 90, np.uint8)
    for column in range(8, 250, 14):
        cv2.circle(image, (column, 72), 2, 255, -1)
    rng = np.random.default_rng(1)
    # 16 pixels is the smallest side of an alignment that a release may have.
    tiny = [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((16, 16), (16, 40), (4, 4))]
    for grey in (image, *tiny):
        homography = estimate_homography(grey, grey)
        assert homography is None or np.allclose(homography, np.eye(3), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_that_the_past_does_not_cover_are_those_of_now(dtype: type) -> None:
    past: np.ndarray = np.full((20, 30, 3), 10, dtype)
    now: np.ndarray = np.full((20, 30, 3), 200, dtype)
    shifted = warp_frame(past, now, np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.0]]))
    assert (shifted[:, :19] == 10).all()
    assert (shifted[:, 21:] == 200).all()
    assert (now == 200).all()  # the current frame is not written to


def test_frame_preprocessor_returns_the_frame_and_the_lagged_one() -> None:
    prepare = Preprocessing(64, 64, alignment=Alignment(0.3))
    world = World(3, 640, 360)
    frames = [world.frame(index).image for index in range(5)]
    preprocessor = FramePreprocessor(prepare, fps=10)
    window = prepare.stack_window(frames, fps=10)
    assert window.shape == (1, 6, 5, 64, 64)
    for index, frame in enumerate(frames):
        tensor = preprocessor(frame)
        assert tensor.shape == (2, 3, 64, 64)
        earlier = prepare.align(frames[max(0, index - 3)], frame)
        np.testing.assert_array_equal(tensor[0], prepare(frame)[0])
        np.testing.assert_array_equal(tensor[1], prepare(earlier)[0])
        np.testing.assert_array_equal(tensor.reshape(6, 64, 64), window[0, :, index])
    plain = FramePreprocessor(Preprocessing(64, 64), fps=10)
    np.testing.assert_array_equal(plain(frames[0]), Preprocessing(64, 64)(frames[0]))
