"""Boxes around the salient parts of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge.postprocessing.regions import find_regions
from tests.support.maps import blob


@pytest.mark.parametrize("side", [64, 192])
def test_box_ends_at_half_the_height_of_the_peak(side: int) -> None:
    sigma = side / 20
    (region,) = find_regions(blob(0.3, 0.7, side=side, sigma=sigma))
    half_width = sigma * math.sqrt(2 * math.log(2)) / side  # where a Gaussian falls to a half
    assert (region.x, region.y) == pytest.approx((0.3, 0.7), abs=0.2 / side)
    assert (region.left, region.right) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=1.01 / side)
    assert (region.top, region.bottom) == pytest.approx((0.7 - half_width, 0.7 + half_width), abs=1.01 / side)
    assert region.score == pytest.approx(0.5, abs=0.05)  # the mass of a Gaussian above half its height


def test_touching_regions_are_separated_where_they_meet() -> None:
    saliency = blob(0.3, 0.5, 1.0, sigma=6) + blob(0.62, 0.5, 0.6, sigma=6)
    high, low = find_regions(saliency)
    assert high.right <= low.left + 1.5 / 64
    assert high.right < 0.5 < low.right
    assert high.score > low.score
    assert high.score + low.score <= 1


def test_ridge_without_a_valley_is_one_region() -> None:
    saliency = np.maximum.reduce([blob(0.3 + 0.02 * step, 0.5) for step in range(20)])
    saliency[32, 22] *= 1.03
    saliency[32, 40] *= 1.05
    (region,) = find_regions(saliency)
    assert region.left < 0.3
    assert region.right > 0.68


def test_regions_are_sorted_by_score_and_limited_in_number() -> None:
    saliency = blob(0.2, 0.2, 1.0, sigma=1.5) + blob(0.7, 0.7, 0.8, sigma=5)
    wide, sharp = find_regions(saliency)
    assert wide.x == pytest.approx(0.7, abs=0.01)
    assert sharp.x == pytest.approx(0.2, abs=0.01)
    many = np.sum([blob(x, y, sigma=2) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)], axis=0)
    assert len(find_regions(many, max_count=3)) == 3
    assert find_regions(np.zeros((32, 32), np.float32)) == ()


def test_flat_map_and_single_pixel_give_one_region_each() -> None:
    (everywhere,) = find_regions(np.ones((16, 16), np.float32), max_count=1)
    assert everywhere.score == pytest.approx(1)
    pixel = np.zeros((16, 16), np.float32)
    pixel[0, 15] = 3
    (region,) = find_regions(pixel)
    assert (region.left, region.top, region.right, region.bottom) == (15 / 16, 0, 1, 1 / 16)
