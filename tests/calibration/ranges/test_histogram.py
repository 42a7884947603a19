"""Tests of histograms in constant memory, and of the range that each method finds."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.ranges.histogram import BINS, MAX_SAMPLE, METHODS, Histogram, Method


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        assert histogram.add(part.astype(np.float32))
    return histogram


def test_counts_do_not_depend_on_the_order_of_values() -> None:
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
def test_range_of_each_method_lies_within_the_values(method: Method) -> None:
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 100_000), 0)
    low, high = counted(values).range(method)
    assert low == 0
    assert 2 < high <= values.max() * 1.0001


@pytest.mark.parametrize(
    ("method", "is_clipped"), [("entropy", True), ("percentile", True), ("mse", True), ("minmax", False)]
)
def test_single_outlier_is_clipped_by_all_methods_but_minmax(method: Method, is_clipped: bool) -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 100_000))
    high = counted(*values, np.array([40.0])).range(method)[1]
    assert (high < 20) == is_clipped


@pytest.mark.parametrize("shape", [(1, 640, 640, 3), (1, 96, 112, 112), (1, 197, 3, 768), (1, 1024, 1031)])
def test_sample_of_a_large_tensor_covers_every_channel_row_and_column(shape: tuple[int, ...]) -> None:
    """Each position along an axis has its own value, whose bin must be counted."""
    for axis, side in enumerate(shape):
        positions = np.arange(side, dtype=np.float32)
        values = np.broadcast_to(
            np.expand_dims(positions, [at for at in range(len(shape)) if at != axis]), shape
        )
        histogram = counted(values)
        assert (histogram.low, histogram.high) == (0, side - 1)
        assert MAX_SAMPLE // 2 < histogram.counts.sum() <= 2 * MAX_SAMPLE
        expected, _ = np.histogram(values, 2 * BINS, (-histogram.reach, histogram.reach))
        shares, wanted = histogram.counts / histogram.counts.sum(), expected / expected.sum()
        assert np.abs(shares - wanted).max() < 0.05 * wanted.max()


def test_zeros_weigh_the_same_before_and_after_the_first_value() -> None:
    zeros = np.zeros(8 * MAX_SAMPLE)
    before, after = counted(zeros, zeros + 1), counted(zeros + 1, zeros)
    np.testing.assert_array_equal(before.counts, after.counts)


def test_mse_threshold_is_that_of_brute_force() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 200_000)
    histogram = counted(values)

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2).sum())

    best = min(error(t) for t in np.linspace(2, histogram.high, 200))
    assert error(histogram.range("mse")[1]) <= 1.02 * best


def test_range_of_zeros_is_zero_and_values_that_are_not_finite_are_refused() -> None:
    for method in METHODS:
        assert counted(np.zeros(5)).range(method) == (0, 0)
    histogram = counted(np.ones(3))
    for bad in (np.nan, np.inf):
        assert not histogram.add(np.array([1, bad], np.float32))
    assert histogram.counts.sum() == 3
