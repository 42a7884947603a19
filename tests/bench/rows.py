"""What a measurement is, and how contenders are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """What was measured, and the bound that it must keep, if any: a least value, else a most."""

    what: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = True

    @property
    def held(self) -> bool:
        """Whether the bound is kept."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def turns(contenders: dict[str, Callable[[], object]], calls: int, rounds: int) -> dict[str, float]:
    """Return each contender's median seconds a call; they take turns of `calls` calls."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            for _ in range(calls):
                before = time.perf_counter()
                call()
                if turn:  # the first turn warms up
                    times[name].append(time.perf_counter() - before)
    return {name: statistics.median(values) for name, values in times.items()}
