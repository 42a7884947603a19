"""Quantiles of a run's latencies in bounded memory."""

from __future__ import annotations

import random
from array import array

import numpy as np

CAPACITY = 65536
"""Number of kept values: all of them up to here, then a uniform random sample."""


class LatencyReservoir:
    """Reservoir sample of latencies in milliseconds, by algorithm R (Vitter, 1985)."""

    def __init__(self) -> None:
        self.count = 0
        self._sample = array("d")
        self._random = random.Random(0)  # noqa: S311

    def add(self, latency_ms: float) -> None:
        """Add a value."""
        self.count += 1
        if len(self._sample) < CAPACITY:
            self._sample.append(latency_ms)
        elif (index := self._random.randrange(self.count)) < CAPACITY:
            self._sample[index] = latency_ms

    def quantiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile; zeros without values."""
        if not self._sample:
            return 0.0, 0.0
        p50, p99 = np.percentile(np.frombuffer(self._sample), [50, 99])
        return float(p50), float(p99)
