from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge.preprocess import Preprocessing
from edge.world import World


def test_layout_and_scale() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :, 2] = 255  # red, last in BGR
    out = Preprocessing(2, 2)(image)
    assert out.shape == (1, 3, 2, 2)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0], 1.0)
    np.testing.assert_allclose(out[0, 1:], -1.0)


def test_area_resize_is_the_mean_of_what_it_covers() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (72, 128, 3), np.uint8)
    out = Preprocessing(32, 8).resize(image)
    expected = image.reshape(8, 9, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(out - expected).max() <= 0.51  # rounding to uint8


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (2160, 3840)])
def test_halving_first_is_half_a_grey_level_from_one_pass(size: tuple[int, int]) -> None:
    image = World(5, size[1] // 2, size[0] // 2).frame(40).image
    large = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    once = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    away = Preprocessing(64, 64).resize(large) - once
    assert np.sqrt((away**2).mean()) < 0.75
    assert np.abs(away).max() <= 5


def test_a_checkerboard_does_not_alias() -> None:
    board = (np.indices((720, 1280)).sum(axis=0) % 2 * 255).astype(np.uint8)
    out = Preprocessing(64, 64)(np.dstack([board] * 3))
    assert np.abs(out).max() < 0.05


def test_fills_a_buffer_that_is_given() -> None:
    image = np.full((10, 10, 3), 7, np.uint8)
    prepare = Preprocessing(4, 4)
    buffer = np.empty((1, 3, 4, 4), np.float32)
    assert prepare(image, buffer) is buffer
    np.testing.assert_array_equal(buffer, prepare(image))
