"""A histogram of a tensor's values in constant memory, and the thresholds that methods find in it."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["entropy", "percentile", "mse", "minmax"]
METHODS: tuple[Method, ...] = get_args(Method)
BINS = 2048
"""Of either sign. A range that doubles leaves at least half of them in use."""
LEVELS = 128
"""Magnitudes of a signed 8-bit integer."""
PERCENTILE = 99.99
MAX_SAMPLE = 2**17
"""Values of a tensor that are counted: all, or of one that has twice as many or more, about so many."""
THRESHOLD_STRIDE = 16
"""Bins between the thresholds that are tried."""


class Histogram:
    """Counts over [-reach, reach], in bins of equal width; the reach doubles when a value is beyond it.

    Doubling adds neighbouring bins together, so the counts stay exact, and in any order of the values
    they are those of the final reach. Memory: `BINS` x 2 counts.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)
        self.reach = 0.0
        """A power of two, 0 as long as all values were 0."""
        self.low, self.high = float("inf"), float("-inf")

    def add(self, values: NDArray[np.float32]) -> bool:
        """Count values of any shape. False if one is not finite: nothing was counted then.

        Of a large tensor a sample is counted; the least and the greatest value are those of all.
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(-low, high))
        sample = _sample(values)
        if self.reach == 0:
            self.counts[BINS] += sample.size
            return True
        place = sample * np.float32(BINS / self.reach)
        place += np.float32(BINS)
        found = np.bincount(place.astype(np.int32), minlength=2 * BINS)
        if found.size > 2 * BINS:  # a value equal to the reach
            found[2 * BINS - 1] += found[2 * BINS]
        self.counts += found[: 2 * BINS]
        return True

    def _grow(self, most: float) -> None:
        if most <= self.reach:
            return
        if self.reach == 0:
            self.reach = 2.0 ** np.ceil(np.log2(max(most, 1e-30)))
        while self.reach < most:
            half = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = half
            self.reach *= 2

    def range(self, method: Method) -> tuple[float, float]:
        """Return the lowest and highest value that are kept apart; what is beyond is clipped."""
        if method == "minmax" or self.reach == 0:
            return self.low, self.high
        magnitudes = self.counts[BINS:] + self.counts[BINS - 1 :: -1]
        bins = {"entropy": _entropy, "percentile": _percentile, "mse": _mse}[method](magnitudes)
        threshold = bins / BINS * self.reach
        return max(self.low, -threshold), min(self.high, threshold)


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return all values, or every so manieth: a step that divides no axis meets every place along each."""
    every = max(1, values.size // MAX_SAMPLE)
    while math.gcd(every, values.size) > 1:
        every += 1
    return values.ravel()[::every]


def _candidates(counts: NDArray[np.int64]) -> range:
    last = int(np.flatnonzero(counts)[-1]) + 1
    first = min(LEVELS, last)
    return range(last, first - 1, -THRESHOLD_STRIDE)


def _percentile(counts: NDArray[np.int64]) -> int:
    """Return the bins that hold `PERCENTILE` of the magnitudes."""
    reached = np.cumsum(counts)
    return int(np.searchsorted(reached, reached[-1] * PERCENTILE / 100)) + 1


def _mse(counts: NDArray[np.int64]) -> int:
    """Return the bins at which rounding to 8 bits and clipping cost least squared error together."""
    centres = np.arange(BINS) + 0.5
    best, least = BINS, float("inf")
    for bins in _candidates(counts):
        step = bins / (LEVELS - 1)
        rounded = np.minimum(np.rint(centres / step), LEVELS - 1) * step
        error = float((counts * (centres - rounded) ** 2).sum())
        if error < least:
            best, least = bins, error
    return best


def _entropy(counts: NDArray[np.int64]) -> int:
    """Return the bins whose 8-bit form diverges least from the histogram.

    Migacz, "8-bit inference with TensorRT", GTC 2017: clipped values go to the last bin of the
    reference; the candidate spreads each level evenly over the bins that are not empty. Zeros, which
    most values behind a ReLU are, are exact at any scale: their bin counts as its neighbour.
    """
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    if counts.sum() == 0:
        return BINS
    best, least = BINS, float("inf")
    for bins in _candidates(counts):
        reference = counts[:bins].copy()
        filled = reference > 0
        reference[-1] += counts[bins:].sum()
        level = np.minimum(np.arange(bins) * LEVELS // bins, LEVELS - 1)
        mass = np.bincount(level, counts[:bins], LEVELS)
        share = np.bincount(level, filled, LEVELS)
        candidate = np.where(filled, (mass / np.maximum(share, 1))[level], 0)
        p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1)
        seen = p > 0
        divergence = float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())
        if divergence < least:
            best, least = bins, divergence
    return best
