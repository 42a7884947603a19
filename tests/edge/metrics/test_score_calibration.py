"""Focus of a map, and the score that is made of it."""

from __future__ import annotations

import numpy as np
import pytest

from edge.metrics.score_calibration import ScoreCalibration, map_focus
from tests.support.maps import blob

CALIBRATION = ScoreCalibration(share=0.5, focus=1.2, offset=-4.0, threshold=0.4)


def test_focus_is_the_number_of_pixels_over_those_that_share_the_map() -> None:
    saliency = np.zeros((32, 64), np.float32)
    saliency[:8, :16] = 0.3
    assert map_focus(saliency) == pytest.approx(16)
    assert map_focus(np.ones((32, 64), np.float32)) == pytest.approx(1)
    assert map_focus(1000 * saliency) == pytest.approx(16), "the scale of a map does not count"


def test_focus_of_a_map_without_mass_is_one() -> None:
    assert map_focus(np.zeros((8, 8), np.float32)) == 1.0


def test_focus_does_not_depend_on_the_resolution() -> None:
    small, large = (map_focus(blob(0.4, 0.5, side=side, sigma=side / 20)) for side in (64, 128))
    assert small == pytest.approx(large, rel=0.05)


def test_score_rises_with_share_and_focus_and_stays_a_probability() -> None:
    scores = [CALIBRATION.score(share, focus) for share, focus in ((0.1, 2), (0.4, 2), (0.4, 30), (0.4, 1e4))]
    assert scores == sorted(scores)
    assert 0 < scores[0] < scores[-1] <= 1
    assert CALIBRATION.score(0.0, 1.0) == 0.0


def test_extreme_weights_give_a_finite_score() -> None:
    steep = ScoreCalibration(share=1e6, focus=-1e6, offset=0, threshold=0.5)
    assert 0 <= steep.score(1e-9, 1e6) < 1e-9
    assert steep.score(1.0, 1e-6) == pytest.approx(1)
