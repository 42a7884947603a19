"""Preprocessing of frames: layout, scale, area resize."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World


def test_output_is_scaled_rgb_planes() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :, 2] = 255  # red, last in BGR
    out = Preprocessing(2, 2)(image)
    assert out.shape == (1, 3, 2, 2)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0], 1.0)
    np.testing.assert_allclose(out[0, 1:], -1.0)


def test_resized_pixel_is_the_mean_of_the_area_that_it_covers() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (72, 128, 3), np.uint8)
    out = Preprocessing(32, 8).resize(image)
    expected = image.reshape(8, 9, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(out - expected).max() <= 0.51  # rounding to uint8


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_repeated_halving_is_close_to_a_single_resize(size: tuple[int, int], side: int) -> None:
    image = World(5, *size).frame(40).image  # rendered at this size, so with detail that halving removes
    reference = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(float)
    error = Preprocessing(side, side).resize(image) - reference
    assert 0 < np.sqrt((error**2).mean()) < 0.7
    assert np.abs(error).max() <= 8


def test_checkerboard_does_not_alias() -> None:
    board = (np.indices((720, 1280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    out = Preprocessing(64, 64)(np.dstack([board] * 3))
    assert np.abs(out).max() < 0.05


def test_result_is_written_to_the_buffer_that_is_passed() -> None:
    image = np.full((10, 10, 3), 7, np.uint8)
    prepare = Preprocessing(4, 4)
    buffer = np.empty((1, 3, 4, 4), np.float32)
    assert prepare(image, buffer) is buffer
    np.testing.assert_array_equal(buffer, prepare(image))
