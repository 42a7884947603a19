from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.preprocessing.area_resize import resize_by_area
from edge.simulation.world import World


def shares(size: int, parts: int) -> NDArray[np.float64]:
    """(parts, size): how much of each pixel lies in each part, all together 1."""
    edges = np.linspace(0, size, parts + 1)
    at = np.arange(size)
    inside = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return np.asarray(np.maximum(inside, 0) * parts / size)


@pytest.mark.parametrize(
    ("size", "to"),
    [
        ((640, 360), (64, 64)),  # whole steps across, parts of a pixel down
        ((333, 500), (60, 125)),
        ((1001, 999), (64, 48)),
        ((1280, 720), (256, 192)),
        ((640, 480), (160, 96)),  # whole steps both ways: OpenCV's
        ((100, 90), (64, 64)),  # few pixels each: OpenCV's
    ],
)
def test_is_the_mean_of_what_it_covers(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = World(7, *size).frame(10).image
    down, across = shares(size[1], to[1]), shares(size[0], to[0])
    exact = np.einsum("hr,rcx,wc->hwx", down, image.astype(float), across, optimize=True)
    out = resize_by_area(image, *to)
    assert out.shape == (to[1], to[0], 3)
    assert np.abs(out - exact).max() <= 0.501
    once = cv2.resize(image, to, interpolation=cv2.INTER_AREA)
    assert (out != once).mean() < 0.01


@pytest.mark.parametrize(
    "size",
    [
        (2048, 4096),  # as many pixels as an int32 holds the sum of
        (2049, 4097),  # more
    ],
)
def test_sums_do_not_overflow(size: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    white[:, size[1] // 2 :, 1] = 254
    out = resize_by_area(white, 60, 50)
    assert (out[..., [0, 2]] == 255).all()
    assert (out[:, 31:, 1] == 254).all()


def test_grows() -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    assert (resize_by_area(image, 8, 300) == np.full((300, 8, 3), 9)).all()


def test_part_of_a_larger_image() -> None:
    image = World(7, 700, 500).frame(10).image
    part = image[50:410, 20:660]
    assert (resize_by_area(part, 64, 64) == resize_by_area(part.copy(), 64, 64)).all()
