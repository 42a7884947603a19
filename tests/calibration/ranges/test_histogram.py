"""Histograms in constant memory, and the ranges that methods find in them."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.ranges.histogram import BINS, MAX_SAMPLE, METHODS, Histogram, Method


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        assert histogram.add(part.astype(np.float32))
    return histogram


def test_any_order_gives_the_counts_of_one_histogram_over_all() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, scale, 5000) for scale in (0.01, 30, 1, 7)]
    values = np.concatenate(parts).astype(np.float32)
    histogram = counted(*parts)
    expected, _ = np.histogram(values, 2 * BINS, (-histogram.reach, histogram.reach))
    assert histogram.counts.sum() == values.size
    # float32 may put a value that lies on an edge into the bin beside it
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 5
    np.testing.assert_array_equal(counted(*parts[::-1]).counts.sum(), values.size)
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.reach / 2 < np.abs(values).max() <= histogram.reach


@pytest.mark.parametrize("method", METHODS)
def test_ranges_lie_within_the_values_and_cut_off_no_side_that_is_not_there(method: Method) -> None:
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 100_000), 0)
    low, high = counted(values).range(method)
    assert low == 0
    assert 2 < high <= values.max() * 1.0001


@pytest.mark.parametrize(
    ("method", "cut"), [("entropy", True), ("percentile", True), ("mse", True), ("minmax", False)]
)
def test_a_lone_outlier_is_cut_off_by_all_but_minmax(method: Method, cut: bool) -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 100_000))
    high = counted(*values, np.array([40.0])).range(method)[1]
    assert (high < 20) == cut


@pytest.mark.parametrize("shape", [(1, 640, 640, 3), (1, 96, 112, 112), (1, 197, 3, 768), (1, 1024, 1031)])
def test_of_a_large_tensor_every_channel_row_and_column_is_sampled(shape: tuple[int, ...]) -> None:
    """Each place along an axis is given a value of its own, whose bin must be found."""
    for axis, side in enumerate(shape):
        places = np.arange(side, dtype=np.float32)
        values = np.broadcast_to(
            np.expand_dims(places, [at for at in range(len(shape)) if at != axis]), shape
        )
        histogram = counted(values)
        assert (histogram.low, histogram.high) == (0, side - 1)
        assert MAX_SAMPLE // 2 < histogram.counts.sum() <= 2 * MAX_SAMPLE
        expected, _ = np.histogram(values, 2 * BINS, (-histogram.reach, histogram.reach))
        shares, wanted = histogram.counts / histogram.counts.sum(), expected / expected.sum()
        assert np.abs(shares - wanted).max() < 0.05 * wanted.max()


def test_zeros_before_the_first_value_weigh_as_much_as_those_after() -> None:
    zeros = np.zeros(8 * MAX_SAMPLE)
    before, after = counted(zeros, zeros + 1), counted(zeros + 1, zeros)
    np.testing.assert_array_equal(before.counts, after.counts)


def test_mse_finds_the_threshold_that_brute_force_finds() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 200_000)
    histogram = counted(values)

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2).sum())

    best = min(error(t) for t in np.linspace(2, histogram.high, 200))
    assert error(histogram.range("mse")[1]) <= 1.02 * best


def test_nothing_but_zeros_and_nothing_finite() -> None:
    for method in METHODS:
        assert counted(np.zeros(5)).range(method) == (0, 0)
    histogram = counted(np.ones(3))
    for bad in (np.nan, np.inf):
        assert not histogram.add(np.array([1, bad], np.float32))
    assert histogram.counts.sum() == 3
