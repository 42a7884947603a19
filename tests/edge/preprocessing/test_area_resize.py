"""Resizing by area against exact means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.preprocessing.area_resize import MIN_LANE_PIXELS, resize_by_area
from edge.simulation.world import World


def coverage(size: int, parts: int) -> NDArray[np.float64]:
    """Return (parts, size): the share of each pixel in each part; the shares of a part sum to 1."""
    edges = np.linspace(0, size, parts + 1)
    at = np.arange(size)
    inside = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return np.asarray(np.maximum(inside, 0) * parts / size)


@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((640, 360), (64, 64)),  # integer factor across, fractional down
        ((333, 500), (60, 125)),
        ((1001, 999), (64, 48)),
        ((1280, 720), (256, 192)),
        ((100, 90), (64, 64)),  # a small image: OpenCV
        ((256, 144), (64, 64)),  # a small image whose weights repeat after 9 and 4 pixels: products
        ((256, 144), (128, 128)),
        ((240, 180), (160, 144)),  # after 3 and 5 pixels
        ((1280, 720), (256, 144)),  # integer factors: lanes
        ((1920, 1080), (256, 144)),  # halves of pixels in both directions: lanes
        ((640, 480), (256, 144)),  # halves across and thirds down: lanes
        ((320, 300), (256, 240)),  # means that contain no whole pixel
        ((640, 320), (640, 160)),  # one side stays
    ],
)
def test_output_pixel_is_the_mean_of_the_area_that_it_covers(
    size: tuple[int, int], to: tuple[int, int]
) -> None:
    image = World(7, *size).frame(10).image
    down, across = coverage(size[1], to[1]), coverage(size[0], to[0])
    exact = np.einsum("hr,rcx,wc->hwx", down, image.astype(float), across, optimize=True)
    out = resize_by_area(image, *to)
    assert out.shape == (to[1], to[0], 3)
    assert np.abs(out - exact).max() <= 0.501
    reference = cv2.resize(image, to, interpolation=cv2.INTER_AREA)
    assert (out != reference).mean() < 0.01


@pytest.mark.parametrize(
    "size",
    [
        (2048, 4096),  # the largest sum that fits in an int32
        (2049, 4097),  # larger
    ],
)
def test_sums_of_large_images_do_not_overflow(size: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    white[:, size[1] // 2 :, 1] = 254
    out = resize_by_area(white, 60, 50)
    assert (out[..., [0, 2]] == 255).all()
    assert (out[:, 31:, 1] == 254).all()


@pytest.mark.parametrize("factor", [(5, 5), (3, 2), (4, 4), (16, 16), (5, 51)])
def test_integer_factors_give_opencv_s_result(factor: tuple[int, int]) -> None:
    width, height = 16 * factor[0], 16 * factor[1]
    tiles = -(-MIN_LANE_PIXELS // (width * height))
    image = np.random.default_rng(0).integers(0, 256, (height * tiles, width, 3), np.uint8)
    image[: height // 2] = 255  # the largest sums
    reference = cv2.resize(image, (16, 16 * tiles), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize_by_area(image, 16, 16 * tiles), reference)


@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((1280, 720), (256, 144)),
        ((640, 480), (256, 144)),
        ((384, 288), (256, 144)),
        ((640, 360), (64, 64)),
        ((256, 144), (64, 64)),
        ((256, 144), (96, 96)),
        ((512, 288), (256, 144)),
    ],
)
def test_green_channel_is_resized_as_in_the_image(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    green = resize_by_area(np.ascontiguousarray(image[..., 1]), *to)
    np.testing.assert_array_equal(green, resize_by_area(image, *to)[..., 1])


def test_side_that_grows_is_interpolated() -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    assert (resize_by_area(image, 8, 300) == np.full((300, 8, 3), 9)).all()


def test_view_of_a_larger_image_gives_the_result_of_a_copy() -> None:
    image = World(7, 700, 500).frame(10).image
    part = image[50:410, 20:660]
    for size in (64, 64), (128, 72):
        assert (resize_by_area(part, *size) == resize_by_area(part.copy(), *size)).all()
