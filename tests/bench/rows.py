"""Rows of a benchmark, and the timing of alternatives in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class BenchRow(NamedTuple):
    """A measured value and its bound, if it has one.

    Attributes:
        label: What was measured.
        value: The value.
        unit: Its unit; "" for none.
        bound: The bound that the value must keep; None for none.
        at_least: The bound is a lower one, else an upper one.
    """

    label: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = True

    @property
    def is_within_bound(self) -> bool:
        """Return whether the value keeps its bound."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def to_document(self) -> dict[str, str | float | bool | None]:
        """Return the row for `out/bench.json`."""
        return {
            "what": self.label,
            "value": self.value,
            "unit": self.unit,
            "bound": self.bound,
            "at_least": self.at_least,
        }

    def describe(self) -> str:
        """Return the row as a sentence."""
        value = f"{self.value:.4g} {self.unit}" if self.unit else f"{self.value:.6g}"
        if self.bound is None:
            return f"{self.label}: {value}"
        verdict = "ok" if self.is_within_bound else "BROKEN"
        return (
            f"{self.label}: {value} ({'at least' if self.at_least else 'at most'} {self.bound:g}: {verdict})"
        )


def time_in_turns(calls: Mapping[str, Callable[[], object]], repeats: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each call.

    The calls take turns, so that a busy machine slows all of them alike; the first round warms up.

    Args:
        calls: Calls by name.
        repeats: Times that a call is repeated in its turn.
        rounds: Measured rounds.
    """
    times_s: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            for _ in range(repeats):
                start_s = time.perf_counter()
                call()
                if round_:
                    times_s[name].append(time.perf_counter() - start_s)
    return {name: statistics.median(values) for name, values in times_s.items()}


def print_note(text: str) -> None:
    """Print a line that explains the rows around it."""
    print(f"  {text}", flush=True)


def print_times(title: str, seconds: Mapping[str, float], maps: int = 1) -> None:
    """Print the milliseconds of each call, or per map if a call computes several, in one line."""
    times = ", ".join(f"{name} {value * 1e3 / maps:.3f} ms" for name, value in seconds.items())
    print_note(f"{title}: {times}")


def print_rates(title: str, seconds: Mapping[str, float], frames: int) -> None:
    """Print the frames per second of each call in one line."""
    rates = ", ".join(f"{name} {frames / value:.0f} frames/s" for name, value in seconds.items())
    print_note(f"{title}: {rates}")
