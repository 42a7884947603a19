"""Smoothing of flicker, jumps, steady motion and camera motion."""

from __future__ import annotations

import numpy as np
import pytest

from edge.postprocessing.temporal_filter import TemporalFilter
from tests.support.maps import blob

FRAME_S = 1 / 30


def peak_position(saliency: np.ndarray) -> tuple[float, float]:
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    return (float(column) + 0.5) / saliency.shape[1], (float(row) + 0.5) / saliency.shape[0]


@pytest.mark.parametrize("side", [64, 192])
def test_jumping_target_is_followed_in_the_same_frame(side: int) -> None:
    smooth = TemporalFilter()
    for index in range(10):
        smooth(blob(0.2, 0.3, side=side, sigma=side / 25), index * FRAME_S)
    jumped = blob(0.8, 0.6, side=side, sigma=side / 25)
    smoothed = smooth(jumped, 10 * FRAME_S)
    assert peak_position(smoothed) == pytest.approx((0.8, 0.6), abs=1 / side)
    assert smoothed.max() > 0.99
    at_old_place = smoothed[int(0.3 * side), int(0.2 * side)]
    assert at_old_place < 0.01


@pytest.mark.parametrize("speed", [0.05, 0.1, 0.25, 0.5])
def test_steadily_moving_target_is_followed_without_lag(speed: float) -> None:
    """At `speed` widths per second the lag is below 0.01 widths, and from 0.25 on below one frame."""
    smooth, lags = TemporalFilter(), []
    for index in range(30):
        position = 0.2 + speed * index * FRAME_S
        smoothed = smooth(blob(position, 0.5, side=192, sigma=6), index * FRAME_S)
        weights = np.where(smoothed > 0.5 * smoothed.max(), smoothed, 0).sum(axis=0)
        lags.append(position - float(weights @ (np.arange(192) + 0.5)) / float(weights.sum()) / 192)
    assert max(lags) < 0.01
    if speed >= 0.25:
        assert max(lags[5:]) < speed * FRAME_S


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_flicker_is_damped_at_each_frame_rate(fps: int) -> None:
    rng, smooth, before, after = np.random.default_rng(0), TemporalFilter(), [], []
    for index in range(5 * fps):
        noisy = blob(0.5, 0.5) * (1 + rng.normal(0, 0.08)) + rng.random((64, 64), np.float32) * 0.05
        before.append(noisy[32, 32])
        after.append(smooth(noisy.astype(np.float32), index / fps)[32, 32])
    assert np.std(after[fps:]) < 0.6 * np.std(before[fps:])


def test_camera_motion_moves_the_past_along() -> None:
    """Noise on a target is damped also while the camera pans by two pixels per frame."""
    to_last = np.array([[1.0, 0, -2], [0, 1, 0], [0, 0, 1]])  # things move right, so they were to the left
    deviations = []
    for motion in (to_last, None):
        rng, smooth, heights = np.random.default_rng(0), TemporalFilter(), []
        for index in range(20):
            position = (10.5 + 2 * index) / 64
            noisy = blob(position, 0.5, sigma=4) * (1 + rng.normal(0, 0.08))
            smoothed = smooth(noisy.astype(np.float32), index * FRAME_S, motion)
            heights.append(smoothed[32, 10 + 2 * index])
        deviations.append(np.std(heights[5:]))
    assert deviations[0] < 0.8 * deviations[1]


def test_filter_restarts_after_a_gap_a_clock_jump_and_another_size() -> None:
    smooth, small = TemporalFilter(), blob(0.2, 0.2, 0.1)
    smooth(blob(0.2, 0.2), 0.0)
    np.testing.assert_array_equal(smooth(small, 5.0), small)  # a long gap
    smooth(blob(0.2, 0.2), 5.01)
    np.testing.assert_array_equal(smooth(small, 4.0), small)  # the clock goes back
    other = blob(0.5, 0.5, side=32)
    np.testing.assert_array_equal(smooth(other, 4.01), other)  # another size
    empty = np.zeros((32, 32), np.float32)
    assert np.isfinite(smooth(empty, 4.02)).all()
    np.testing.assert_array_equal(TemporalFilter()(empty, 0), empty)


def test_returned_map_is_not_changed_later() -> None:
    smooth = TemporalFilter()
    first = smooth(blob(0.5, 0.5), 0.0)
    copy = first.copy()
    smooth(blob(0.6, 0.5), 0.1)
    np.testing.assert_array_equal(first, copy)
