"""Histogram of a tensor's values in constant memory, and the clipping thresholds of each method."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["entropy", "percentile", "mse", "minmax"]
METHODS: tuple[Method, ...] = get_args(Method)
MethodChoice = Literal["best", "entropy", "percentile", "mse", "minmax"]
"""A method, or "best" for the one that suits a graph best."""
BEST: MethodChoice = "best"
METHOD_CHOICES: tuple[MethodChoice, ...] = (BEST, *METHODS)
BINS = 2048
"""Bins for each sign. After the range doubled, at least half of them are in use."""
LEVELS = 128
"""Magnitudes of a signed 8-bit integer."""
PERCENTILE = 99.99
MAX_SAMPLE = 2**17
"""A tensor with at least twice as many values is sampled down to about this number."""
THRESHOLD_STRIDE = 16
"""Bins between the thresholds that are tried."""


class Histogram:
    """Counts of values over [-reach, reach], in bins of equal width.

    The reach doubles when a value exceeds it. Doubling adds neighbouring bins, so the counts are exact and
    do not depend on the order of the values. Memory: 2 x `BINS` counts.

    Attributes:
        counts: Counts of all bins.
        reach: A power of two, or 0 while all values were 0.
        low: Lowest value.
        high: Highest value.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)
        self.reach = 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count values of any shape.

        A large tensor is sampled; its lowest and highest value are exact.

        Returns:
            False if a value is not finite; nothing is counted then.
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._extend_reach(max(-low, high))
        sample = _sample(values)
        if self.reach == 0:
            self.counts[BINS] += sample.size
            return True
        positions = sample * np.float32(BINS / self.reach)
        positions += np.float32(BINS)
        counts = np.bincount(positions.astype(np.int32), minlength=2 * BINS)
        if counts.size > 2 * BINS:  # a value equal to the reach
            counts[2 * BINS - 1] += counts[2 * BINS]
        self.counts += counts[: 2 * BINS]
        return True

    def _extend_reach(self, magnitude: float) -> None:
        if magnitude <= self.reach:
            return
        if self.reach == 0:
            self.reach = 2.0 ** np.ceil(np.log2(max(magnitude, 1e-30)))
        while self.reach < magnitude:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = merged
            self.reach *= 2

    def range(self, method: Method) -> tuple[float, float]:
        """Return the range that a method represents; values beyond it are clipped."""
        if method == "minmax" or self.reach == 0:
            return self.low, self.high
        magnitudes = self.counts[BINS:] + self.counts[BINS - 1 :: -1]
        bins = {"entropy": _entropy, "percentile": _percentile, "mse": _mse}[method](magnitudes)
        threshold = bins / BINS * self.reach
        return max(self.low, -threshold), min(self.high, threshold)


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return all values, or every n-th of a large tensor.

    n shares no factor with the size, so that the sample covers every position along each axis.
    """
    step = max(1, values.size // MAX_SAMPLE)
    while math.gcd(step, values.size) > 1:
        step += 1
    return values.ravel()[::step]


def _candidate_thresholds(counts: NDArray[np.int64]) -> range:
    last = int(np.flatnonzero(counts)[-1]) + 1
    first = min(LEVELS, last)
    return range(last, first - 1, -THRESHOLD_STRIDE)


def _percentile(counts: NDArray[np.int64]) -> int:
    """Return the number of bins that hold `PERCENTILE` percent of the magnitudes."""
    cumulative = np.cumsum(counts)
    return int(np.searchsorted(cumulative, cumulative[-1] * PERCENTILE / 100)) + 1


def _mse(counts: NDArray[np.int64]) -> int:
    """Return the number of bins with the least squared error of 8-bit rounding and clipping together."""
    centres = np.arange(BINS) + 0.5
    best_bins, best_error = BINS, float("inf")
    for bins in _candidate_thresholds(counts):
        step = bins / (LEVELS - 1)
        rounded = np.minimum(np.rint(centres / step), LEVELS - 1) * step
        error = float((counts * (centres - rounded) ** 2).sum())
        if error < best_error:
            best_bins, best_error = bins, error
    return best_bins


def _entropy(counts: NDArray[np.int64]) -> int:
    """Return the number of bins whose 8-bit form has the least divergence from the histogram.

    Migacz, "8-bit inference with TensorRT", GTC 2017: clipped values go to the last bin of the reference;
    the candidate spreads each level evenly over its bins that are not empty. Zeros, the majority of values
    behind a ReLU, are exact at any scale. Their bin counts as much as its neighbour.
    """
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    if counts.sum() == 0:
        return BINS
    best_bins, best_divergence = BINS, float("inf")
    for bins in _candidate_thresholds(counts):
        reference = counts[:bins].copy()
        filled = reference > 0
        reference[-1] += counts[bins:].sum()
        level = np.minimum(np.arange(bins) * LEVELS // bins, LEVELS - 1)
        level_mass = np.bincount(level, counts[:bins], LEVELS)
        filled_bins = np.bincount(level, filled, LEVELS)
        candidate = np.where(filled, (level_mass / np.maximum(filled_bins, 1))[level], 0)
        p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1)
        support = p > 0
        divergence = float((p[support] * np.log(p[support] / np.maximum(q[support], 1e-12))).sum())
        if divergence < best_divergence:
            best_bins, best_divergence = bins, divergence
    return best_bins
