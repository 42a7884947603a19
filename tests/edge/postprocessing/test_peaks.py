from __future__ import annotations

import numpy as np
import pytest

from edge.postprocessing.peaks import find_peaks
from tests.support.maps import blob

SIGMA = 1.5
"""Of sharp peaks, in pixels."""


def test_peak_is_located_between_pixels() -> None:
    (peak,) = find_peaks(blob(0.3, 0.71, sigma=SIGMA))
    assert peak.x == pytest.approx(0.3, abs=0.002)
    assert peak.y == pytest.approx(0.71, abs=0.002)
    assert peak.score > 0.85


def test_score_is_the_share_of_mass_at_each_scale() -> None:
    saliency = blob(0.2, 0.2, 1.0, sigma=SIGMA) + blob(0.8, 0.6, 0.5, sigma=SIGMA)
    first, second = find_peaks(saliency * 1000)
    assert first.score == pytest.approx(2 * second.score, rel=0.05)
    assert first.score + second.score <= 1
    assert (first.x, second.y) == pytest.approx((0.2, 0.6), abs=0.01)


def test_near_and_low_peaks_are_left_out() -> None:
    near, low = blob(0.55, 0.5, 0.9, sigma=SIGMA), blob(0.1, 0.1, 0.05, sigma=SIGMA)
    assert len(find_peaks(blob(0.5, 0.5, sigma=SIGMA) + near + low)) == 1


def test_number_of_peaks_is_limited_and_an_empty_map_has_none() -> None:
    saliency = np.sum([blob(x, y, sigma=SIGMA) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)], axis=0)
    assert len(find_peaks(saliency, max_count=4)) == 4
    assert find_peaks(np.zeros((32, 32), np.float32)) == ()
