"""Flicker is damped, a jump is followed at once, and a camera that pans leaves no trail."""

from __future__ import annotations

import numpy as np
import pytest

from edge.postprocessing.temporal_filter import TemporalFilter
from tests.support.maps import blob

FRAME_S = 1 / 30


def peak(saliency: np.ndarray) -> tuple[float, float]:
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    return (float(column) + 0.5) / saliency.shape[1], (float(row) + 0.5) / saliency.shape[0]


@pytest.mark.parametrize("side", [64, 192])
def test_a_target_that_jumps_is_followed_in_the_same_frame(side: int) -> None:
    smooth = TemporalFilter()
    for index in range(10):
        smooth(blob(0.2, 0.3, side=side, sigma=side / 25), index * FRAME_S)
    jumped = blob(0.8, 0.6, side=side, sigma=side / 25)
    seen = smooth(jumped, 10 * FRAME_S)
    assert peak(seen) == pytest.approx((0.8, 0.6), abs=1 / side)
    assert seen.max() > 0.99
    old = seen[int(0.3 * side), int(0.2 * side)]
    assert old < 0.01  # nothing lingers where it was


@pytest.mark.parametrize("speed", [0.05, 0.1, 0.25, 0.5])
def test_a_steady_mover_is_not_trailed(speed: float) -> None:
    """Widths a second: never a hundredth of the width behind, and from .25 on under a frame's time."""
    smooth, behind = TemporalFilter(), []
    for index in range(30):
        at = 0.2 + speed * index * FRAME_S
        seen = smooth(blob(at, 0.5, side=192, sigma=6), index * FRAME_S)
        weights = np.where(seen > 0.5 * seen.max(), seen, 0).sum(axis=0)
        behind.append(at - float(weights @ (np.arange(192) + 0.5)) / float(weights.sum()) / 192)
    assert max(behind) < 0.01
    if speed >= 0.25:
        assert max(behind[5:]) < speed * FRAME_S


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_flicker_is_damped_whatever_the_rate(fps: int) -> None:
    rng, smooth, plain, smoothed = np.random.default_rng(0), TemporalFilter(), [], []
    for index in range(5 * fps):
        noisy = blob(0.5, 0.5) * (1 + rng.normal(0, 0.08)) + rng.random((64, 64), np.float32) * 0.05
        plain.append(noisy[32, 32])
        smoothed.append(smooth(noisy.astype(np.float32), index / fps)[32, 32])
    assert np.std(smoothed[fps:]) < 0.6 * np.std(plain[fps:])


def test_a_pan_of_the_camera_moves_the_past_along() -> None:
    """Noise on a target is damped as well while the camera pans by two pixels a frame."""
    back = np.array([[1.0, 0, -2], [0, 1, 0], [0, 0, 1]])  # things move right: they were left of here
    deviations = []
    for motion in (back, None):
        rng, smooth, heights = np.random.default_rng(0), TemporalFilter(), []
        for index in range(20):
            at = (10.5 + 2 * index) / 64
            noisy = blob(at, 0.5, sigma=4) * (1 + rng.normal(0, 0.08))
            seen = smooth(noisy.astype(np.float32), index * FRAME_S, motion)
            heights.append(seen[32, 10 + 2 * index])
        deviations.append(np.std(heights[5:]))
    assert deviations[0] < 0.8 * deviations[1]


def test_what_cannot_be_joined_starts_anew() -> None:
    smooth, small = TemporalFilter(), blob(0.2, 0.2, 0.1)
    smooth(blob(0.2, 0.2), 0.0)
    np.testing.assert_array_equal(smooth(small, 5.0), small)  # a long silence
    smooth(blob(0.2, 0.2), 5.01)
    np.testing.assert_array_equal(smooth(small, 4.0), small)  # a clock that jumps
    other = blob(0.5, 0.5, side=32)
    np.testing.assert_array_equal(smooth(other, 4.01), other)  # another size
    empty = np.zeros((32, 32), np.float32)
    assert np.isfinite(smooth(empty, 4.02)).all()
    np.testing.assert_array_equal(TemporalFilter()(empty, 0), empty)


def test_a_map_that_was_given_out_is_not_written_again() -> None:
    smooth = TemporalFilter()
    first = smooth(blob(0.5, 0.5), 0.0)
    kept = first.copy()
    smooth(blob(0.6, 0.5), 0.1)
    np.testing.assert_array_equal(first, kept)
