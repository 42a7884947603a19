from __future__ import annotations

import numpy as np
import pytest

from edge.core.frames import Tensor
from edge.postprocessing.peaks import find_peaks


def blob(x: float, y: float, height: float = 1.0, side: int = 64, sigma: float = 1.5) -> Tensor:
    grid = np.arange(side) + 0.5
    across, down = (grid - x * side) / sigma, (grid - y * side) / sigma
    return (height * np.exp(-0.5 * (across[None] ** 2 + down[:, None] ** 2))).astype(np.float32)


def test_places_between_pixels() -> None:
    (peak,) = find_peaks(blob(0.3, 0.71))
    assert peak.x == pytest.approx(0.3, abs=0.002)
    assert peak.y == pytest.approx(0.71, abs=0.002)
    assert peak.score > 0.85


def test_score_is_the_share_of_mass_whatever_the_scale() -> None:
    saliency = blob(0.2, 0.2, 1.0) + blob(0.8, 0.6, 0.5)
    first, second = find_peaks(saliency * 1000)
    assert first.score == pytest.approx(2 * second.score, rel=0.05)
    assert first.score + second.score <= 1
    assert (first.x, second.y) == pytest.approx((0.2, 0.6), abs=0.01)


def test_neighbours_and_murmurs_are_left_out() -> None:
    saliency = blob(0.5, 0.5) + blob(0.55, 0.5, 0.9) + blob(0.1, 0.1, 0.05)
    assert len(find_peaks(saliency)) == 1


def test_most_peaks_and_none() -> None:
    saliency = np.sum([blob(x, y) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)], axis=0)
    assert len(find_peaks(saliency, most=4)) == 4
    assert find_peaks(np.zeros((32, 32), np.float32)) == ()
