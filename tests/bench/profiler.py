"""Overhead of the profiler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.profiler.measurement.sampler import measure_overhead
from tests.bench.rows import BenchRow

ATTEMPTS = 5


def profiler_rows(_folder: Path) -> Iterator[BenchRow]:
    """Yield what the profiler adds to a call, in the best of some attempts."""
    overhead_us = min(measure_overhead() for _ in range(ATTEMPTS))
    yield BenchRow("profiler: time added to each measured call", overhead_us, "us", 2, at_least=False)
