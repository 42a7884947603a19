"""Quantiles of a run of any length, in memory that does not grow."""

from __future__ import annotations

import random
from array import array

import numpy as np

MOST = 65536
"""Values kept: all, up to here; from then on a sample in which each value is as likely as any other."""


class LatencyReservoir:
    """Latencies in milliseconds; a reservoir sample by Vitter's algorithm R (1985)."""

    def __init__(self) -> None:
        self.count = 0
        self._kept = array("d")
        self._random = random.Random(0)  # noqa: S311

    def add(self, latency_ms: float) -> None:
        """Take a value."""
        self.count += 1
        if len(self._kept) < MOST:
            self._kept.append(latency_ms)
        elif (at := self._random.randrange(self.count)) < MOST:
            self._kept[at] = latency_ms

    def quantiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile; 0 where there is nothing."""
        if not self._kept:
            return 0.0, 0.0
        p50, p99 = np.percentile(np.frombuffer(self._kept), [50, 99])
        return float(p50), float(p99)
