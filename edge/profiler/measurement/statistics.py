"""Numbers out of times: percentiles, their bootstrap intervals, and whether two differ.

Intervals are percentile bootstrap intervals of 95 % (Efron & Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13). What is drawn again is whole turns, for calls that follow each other are alike: a block
bootstrap (chapter 8). Turns of one round are drawn together where contenders of one run are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""(rounds, calls) in milliseconds."""

DRIFT = 0.02
"""Two groups of turns whose medians differ by less are alike."""
GROUP = 3
"""Turns in a group."""
MARGIN = 0.03
"""By how much two runs of the same thing may differ at p50: no less is called a difference."""
LEAST_ROUNDS = 5
"""Of fewer turns, as an interrupted run may leave, single calls are drawn, and nothing is sure."""
SURE = 0.975
"""Of the draws on one side: a difference."""
PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9}
_LEAST, _MOST, _VALUES = 200, 1000, 3_000_000


class Verdict(NamedTuple):
    """How b's median stands to a's: `ratio` b / a with its interval, in words, and how sure that is.

    `verdict`: slower, faster, no difference; or undecided: more runs, or a quieter machine, would tell.
    `confidence`: the draws that say so.
    """

    ratio: float
    low: float
    high: float
    verdict: str
    confidence: float


def is_steady(turns: Sequence[float]) -> bool:
    """Say whether a drift has stopped, by each turn's median so far.

    The last `GROUP` turns are held to the `GROUP` before: alike within `DRIFT`, or so noisy that their
    ranges overlap.
    """
    if len(turns) < 2 * GROUP:
        return False
    before, last = turns[-2 * GROUP : -GROUP], turns[-GROUP:]
    if abs(float(np.median(last) / np.median(before)) - 1) < DRIFT:
        return True
    return min(before) <= max(last) and min(last) <= max(before) and not _falls([*before, *last])


def summarise(times: Times) -> dict[str, float]:
    """Return mean, percentiles, standard deviation, jitter, least and most, in milliseconds.

    Jitter is the mean difference of a call from the one before it, either way (as RFC 3550, section 6.4.1,
    without its smoothing).
    """
    flat = times.ravel()
    return {
        "mean_ms": float(flat.mean()),
        **{name: float(np.percentile(flat, at)) for name, at in PERCENTILES.items()},
        "std_ms": float(flat.std()),
        "jitter_ms": float(np.abs(np.diff(times, axis=1)).mean()),
        "min_ms": float(flat.min()),
        "max_ms": float(flat.max()),
    }


def intervals(times: Times, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return the interval of the mean and of each percentile."""
    times = _blocks(times)
    drawn = times[_draws(len(times), times.size, seed)].reshape(-1, times.size)
    values = {"mean_ms": drawn.mean(axis=1)}
    percentiles = np.percentile(drawn, list(PERCENTILES.values()), axis=1)
    values |= dict(zip(PERCENTILES, percentiles, strict=True))
    return {name: _interval(found) for name, found in values.items()}


def drift(times: Times) -> float:
    """Return how much slower the last third of the rounds was than the first, as a part of it."""
    third = max(1, len(times) // 3)
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1)


def compare(a: Times, b: Times, margin: float = 0.0, together: bool = False, seed: int = 0) -> Verdict:
    """Return how b's median stands to a's.

    `together`: they are rounds of one run, and drawn together. `margin`: what is no difference yet; without
    one there is no difference where the interval has 1 in it.
    """
    few = min(len(a), len(b)) < LEAST_ROUNDS
    a, b = _blocks(a), _blocks(b)
    first = _draws(len(a), a.size, seed)
    second = first if together else _draws(len(b), b.size, seed + 1)
    count = min(len(first), len(second))
    medians_a = np.median(a[first[:count]].reshape(count, -1), axis=1)
    medians_b = np.median(b[second[:count]].reshape(count, -1), axis=1)
    ratios = medians_b / medians_a
    low, high = _interval(ratios)
    slower, faster = float((ratios > 1 + margin).mean()), float((ratios < 1 / (1 + margin)).mean())
    ratio = float(np.median(b) / np.median(a))
    if few:
        return Verdict(ratio, low, high, "undecided", max(slower, faster, 1 - slower - faster))
    if slower >= SURE:
        return Verdict(ratio, low, high, "slower", slower)
    if faster >= SURE:
        return Verdict(ratio, low, high, "faster", faster)
    if not margin:
        return Verdict(ratio, low, high, "no difference", max(slower, faster))
    within = 1 - slower - faster
    word = "no difference" if within >= SURE else "undecided"
    return Verdict(ratio, low, high, word, max(slower, faster, within))


def _blocks(times: Times) -> Times:
    """Return what is drawn as one: turns, or single calls where there are too few turns."""
    return times if len(times) >= LEAST_ROUNDS else times.reshape(-1, 1)


def _falls(turns: Sequence[float]) -> bool:
    """Still going down, turn for turn: a warm-up under way."""
    return all(later < earlier for earlier, later in pairwise(turns))


def _draws(rounds: int, values: int, seed: int) -> NDArray[np.intp]:
    count = int(np.clip(_VALUES // max(1, values), _LEAST, _MOST))
    return np.random.default_rng(seed).integers(rounds, size=(count, rounds))


def _interval(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
