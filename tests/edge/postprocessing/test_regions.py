"""Boxes around what stands out of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge.postprocessing.regions import find_regions
from tests.support.maps import blob


@pytest.mark.parametrize("side", [64, 192])
def test_a_box_ends_at_half_the_peak(side: int) -> None:
    sigma = side / 20
    (region,) = find_regions(blob(0.3, 0.7, side=side, sigma=sigma))
    half = sigma * math.sqrt(2 * math.log(2)) / side  # where a Gaussian falls to a half
    assert (region.x, region.y) == pytest.approx((0.3, 0.7), abs=0.2 / side)
    assert (region.left, region.right) == pytest.approx((0.3 - half, 0.3 + half), abs=1.01 / side)
    assert (region.top, region.bottom) == pytest.approx((0.7 - half, 0.7 + half), abs=1.01 / side)
    assert region.score == pytest.approx(0.5, abs=0.05)  # the mass of a Gaussian above half its height


def test_two_that_touch_are_parted_where_they_meet() -> None:
    saliency = blob(0.3, 0.5, 1.0, sigma=6) + blob(0.62, 0.5, 0.6, sigma=6)
    one, two = find_regions(saliency)
    assert one.right <= two.left + 1.5 / 64
    assert one.right < 0.5 < two.right
    assert one.score > two.score
    assert one.score + two.score <= 1


def test_a_ridge_without_a_valley_is_one_region() -> None:
    saliency = np.maximum.reduce([blob(0.3 + 0.02 * step, 0.5) for step in range(20)])
    saliency[32, 22] *= 1.03
    saliency[32, 40] *= 1.05
    (region,) = find_regions(saliency)
    assert region.left < 0.3
    assert region.right > 0.68


def test_the_heaviest_comes_first_and_there_may_be_none() -> None:
    saliency = blob(0.2, 0.2, 1.0, sigma=1.5) + blob(0.7, 0.7, 0.8, sigma=5)
    wide, sharp = find_regions(saliency)
    assert wide.x == pytest.approx(0.7, abs=0.01)
    assert sharp.x == pytest.approx(0.2, abs=0.01)
    many = np.sum([blob(x, y, sigma=2) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)], axis=0)
    assert len(find_regions(many, most=3)) == 3
    assert find_regions(np.zeros((32, 32), np.float32)) == ()


def test_a_flat_map_and_a_lone_pixel_are_survived() -> None:
    (whole,) = find_regions(np.ones((16, 16), np.float32), most=1)
    assert whole.score == pytest.approx(1)
    lone = np.zeros((16, 16), np.float32)
    lone[0, 15] = 3
    (region,) = find_regions(lone)
    assert (region.left, region.top, region.right, region.bottom) == (15 / 16, 0, 1, 1 / 16)
