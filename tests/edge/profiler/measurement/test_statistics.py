from __future__ import annotations

import numpy as np
import pytest

from edge.profiler.measurement.statistics import (
    MARGIN,
    bootstrap_intervals,
    compare_medians,
    is_steady,
    relative_drift,
    summarize_times,
)


def random_times(median: float, seed: int, rounds: int = 15) -> np.ndarray:
    """Return times (rounds, 20) with a skewed tail, as latencies have."""
    return median * (1 + np.random.default_rng(seed).gamma(1.0, 0.02, (rounds, 20)))


def test_summary_equals_numpy_and_keeps_outliers() -> None:
    times = random_times(1.0, 0)
    times[3, 4] = 100.0
    summary = summarize_times(times)
    assert summary["mean_ms"] == pytest.approx(times.mean())
    assert summary["p99_9_ms"] == pytest.approx(np.percentile(times, 99.9))
    assert summary["max_ms"] == 100.0
    assert summary["p50_ms"] < summary["p90_ms"] < summary["p99_ms"] < summary["p99_9_ms"]
    assert summarize_times(np.array([[1.0, 3.0, 1.0]]))["jitter_ms"] == 2.0


def test_interval_contains_the_true_median_as_often_as_it_claims() -> None:
    true_median = 1 + 0.02 * np.log(2)  # of the distribution that `random_times` draws from
    hits = 0
    for seed in range(1000, 1060):
        low, high = bootstrap_intervals(random_times(1.0, seed))["p50_ms"]
        hits += low <= true_median <= high
    assert hits >= 51  # 95 % of 60 is 57; 50 or fewer have a probability of 1 in 10,000


@pytest.mark.parametrize(
    ("factor", "margin", "expected"),
    [
        (1.2, MARGIN, "slower"),
        (0.8, MARGIN, "faster"),
        (1.0, MARGIN, "no difference"),
        (1.01, MARGIN, "no difference"),
        (1.03, MARGIN, "undecided"),
        (1.0, 0.0, "no difference"),
        (1.02, 0.0, "slower"),
    ],
)
def test_verdict_depends_on_the_change_and_the_margin(factor: float, margin: float, expected: str) -> None:
    verdict = compare_medians(random_times(1.0, 1), random_times(factor, 2), margin)
    assert verdict.verdict == expected
    assert verdict.low < verdict.ratio < verdict.high
    assert 0.5 < verdict.confidence <= 1


def test_verdict_is_undecided_with_one_round() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 0.05, (1, 20)), rng.normal(1.15, 0.05, (1, 20))
    verdict = compare_medians(first, second, MARGIN)
    assert verdict.verdict == "undecided"
    assert verdict.low < verdict.ratio < verdict.high
    low, high = bootstrap_intervals(first)["p50_ms"]
    assert low < float(np.median(first)) < high


def test_latency_is_steady_when_the_drift_has_stopped() -> None:
    falling = [4.0, 3.0, 2.5, 2.0, 1.6, 1.3]
    assert not is_steady(falling)
    assert not is_steady([1.0] * 5)
    assert is_steady([*falling, *[1.0, 1.01, 1.0, 1.005, 1.0, 1.0]])
    assert is_steady([1.0, 3.0, 1.2, 2.8, 1.1, 2.0])  # noise, not drift


def test_drift_is_the_change_between_the_first_and_the_last_third() -> None:
    times = random_times(1.0, 0) * np.linspace(1, 1.5, 15)[:, None]
    assert relative_drift(times) == pytest.approx(1 / 3, abs=0.03)
