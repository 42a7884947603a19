"""Statistics of latencies: percentiles, their bootstrap intervals, and the comparison of two medians.

Intervals are percentile bootstrap intervals of 95 % (Efron & Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13). Consecutive calls are correlated, so whole turns are resampled: a block bootstrap
(chapter 8). Candidates of one run are compared with the turns of a round resampled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
"""Latencies (rounds, calls per turn) in milliseconds."""

STEADY_CHANGE = 0.02
"""Relative change of the median below which two groups of turns count as equal."""
GROUP_TURNS = 3
MARGIN = 0.03
"""Relative change of p50 that two runs of the same graph may show; a smaller one is no difference."""
MIN_ROUNDS = 5
"""With fewer rounds, as after an interruption, single calls are resampled and no verdict is given."""
CONFIDENCE = 0.975
"""Share of the resamples on one side that makes a difference."""
PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9}
_MIN_RESAMPLES, _MAX_RESAMPLES, _RESAMPLED_VALUES = 200, 1000, 3_000_000


class Verdict(NamedTuple):
    """Comparison of the median of b with the median of a.

    Attributes:
        ratio: Median of b over the median of a.
        low: Lower end of the 95 % interval of the ratio.
        high: Upper end of the 95 % interval of the ratio.
        verdict: "slower", "faster", "no difference", or "undecided" where more runs or a quieter machine
            are needed.
        confidence: Share of the resamples that agree with the verdict.
    """

    ratio: float
    low: float
    high: float
    verdict: str
    confidence: float


def is_steady(medians: Sequence[float]) -> bool:
    """Return whether the latency has stopped drifting.

    The last `GROUP_TURNS` turns are compared with the same number before them. They are steady if their
    medians differ by less than `STEADY_CHANGE`, or if the noise is so large that their ranges overlap.

    Args:
        medians: Median of each turn so far.
    """
    if len(medians) < 2 * GROUP_TURNS:
        return False
    earlier, later = medians[-2 * GROUP_TURNS : -GROUP_TURNS], medians[-GROUP_TURNS:]
    if abs(float(np.median(later) / np.median(earlier)) - 1) < STEADY_CHANGE:
        return True
    overlap = min(earlier) <= max(later) and min(later) <= max(earlier)
    return overlap and not _is_falling([*earlier, *later])


def summarize_times(times: Times) -> dict[str, float]:
    """Return mean, percentiles, standard deviation, jitter, minimum and maximum, in milliseconds.

    Jitter is the mean absolute difference between consecutive calls of a turn (as in RFC 3550, section
    6.4.1, without its smoothing).
    """
    flat = times.ravel()
    return {
        "mean_ms": float(flat.mean()),
        **{name: float(np.percentile(flat, percent)) for name, percent in PERCENTILES.items()},
        "std_ms": float(flat.std()),
        "jitter_ms": float(np.abs(np.diff(times, axis=1)).mean()),
        "min_ms": float(flat.min()),
        "max_ms": float(flat.max()),
    }


def bootstrap_intervals(times: Times, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of the mean and of each percentile."""
    times = _blocks(times)
    samples = times[_resample(len(times), times.size, seed)].reshape(-1, times.size)
    values = {"mean_ms": samples.mean(axis=1)}
    percentiles = np.percentile(samples, list(PERCENTILES.values()), axis=1)
    values |= dict(zip(PERCENTILES, percentiles, strict=True))
    return {name: _interval_95(statistic) for name, statistic in values.items()}


def relative_drift(times: Times) -> float:
    """Return the relative increase of the median from the first third of the rounds to the last third."""
    third = max(1, len(times) // 3)
    return float(np.median(times[-third:]) / np.median(times[:third]) - 1)


def compare_medians(
    a: Times, b: Times, margin: float = 0.0, together: bool = False, seed: int = 0
) -> Verdict:
    """Compare the median of b with the median of a.

    Args:
        a: Latencies of the reference.
        b: Latencies to compare with it.
        margin: Relative change that still is no difference. With 0, there is no difference where the
            interval of the ratio contains 1.
        together: The rounds are those of one run, and are resampled together.
        seed: Seed of the resamples.
    """
    too_few = min(len(a), len(b)) < MIN_ROUNDS
    a, b = _blocks(a), _blocks(b)
    rounds_a = _resample(len(a), a.size, seed)
    rounds_b = rounds_a if together else _resample(len(b), b.size, seed + 1)
    count = min(len(rounds_a), len(rounds_b))
    medians_a = np.median(a[rounds_a[:count]].reshape(count, -1), axis=1)
    medians_b = np.median(b[rounds_b[:count]].reshape(count, -1), axis=1)
    ratios = medians_b / medians_a
    low, high = _interval_95(ratios)
    slower, faster = float((ratios > 1 + margin).mean()), float((ratios < 1 / (1 + margin)).mean())
    ratio = float(np.median(b) / np.median(a))
    if too_few:
        return Verdict(ratio, low, high, "undecided", max(slower, faster, 1 - slower - faster))
    if slower >= CONFIDENCE:
        return Verdict(ratio, low, high, "slower", slower)
    if faster >= CONFIDENCE:
        return Verdict(ratio, low, high, "faster", faster)
    if not margin:
        return Verdict(ratio, low, high, "no difference", max(slower, faster))
    within_margin = 1 - slower - faster
    verdict = "no difference" if within_margin >= CONFIDENCE else "undecided"
    return Verdict(ratio, low, high, verdict, max(slower, faster, within_margin))


def _blocks(times: Times) -> Times:
    """Return the blocks to resample: turns, or single calls where there are too few turns."""
    return times if len(times) >= MIN_ROUNDS else times.reshape(-1, 1)


def _is_falling(medians: Sequence[float]) -> bool:
    """Return whether each turn is faster than the one before, as during a warm-up."""
    return all(later < earlier for earlier, later in pairwise(medians))


def _resample(rounds: int, values: int, seed: int) -> NDArray[np.intp]:
    """Return the indices (resamples, rounds) of bootstrap samples of the rounds."""
    count = int(np.clip(_RESAMPLED_VALUES // max(1, values), _MIN_RESAMPLES, _MAX_RESAMPLES))
    return np.random.default_rng(seed).integers(rounds, size=(count, rounds))


def _interval_95(values: NDArray[np.floating]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
