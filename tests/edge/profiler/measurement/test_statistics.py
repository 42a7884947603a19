from __future__ import annotations

import numpy as np
import pytest

from edge.profiler.measurement.sampler import overhead_us
from edge.profiler.measurement.statistics import MARGIN, compare, drift, intervals, is_steady, summarise
from edge.profiler.report.html import pareto_front


def times(median: float, seed: int, rounds: int = 15) -> np.ndarray:
    """Calls with a skewed tail, as latencies are."""
    return median * (1 + np.random.default_rng(seed).gamma(1.0, 0.02, (rounds, 20)))


def test_the_numbers_are_numpys_and_outliers_count() -> None:
    seen = times(1.0, 0)
    seen[3, 4] = 100.0
    found = summarise(seen)
    assert found["mean_ms"] == pytest.approx(seen.mean())
    assert found["p99_9_ms"] == pytest.approx(np.percentile(seen, 99.9))
    assert found["max_ms"] == 100.0
    assert found["p50_ms"] < found["p90_ms"] < found["p99_ms"] < found["p99_9_ms"]
    assert summarise(np.array([[1.0, 3.0, 1.0]]))["jitter_ms"] == 2.0


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth = 1 + 0.02 * np.log(2)  # the median of what `times` draws
    held = 0
    for seed in range(1000, 1060):
        low, high = intervals(times(1.0, seed))["p50_ms"]
        held += low <= truth <= high
    assert held >= 51  # 95 % of 60 is 57; 50 or fewer happen once in 10,000 times


@pytest.mark.parametrize(
    ("change", "margin", "verdict"),
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
def test_a_verdict_needs_more_than_luck(change: float, margin: float, verdict: str) -> None:
    found = compare(times(1.0, 1), times(change, 2), margin)
    assert found.verdict == verdict
    assert found.low < found.ratio < found.high
    assert 0.5 < found.confidence <= 1


def test_of_a_turn_or_two_nothing_is_sure() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(1, 0.05, (1, 20)), rng.normal(1.15, 0.05, (1, 20))
    found = compare(one, other, MARGIN)
    assert found.verdict == "undecided"
    assert found.low < found.ratio < found.high
    low, high = intervals(one)["p50_ms"]
    assert low < float(np.median(one)) < high


def test_a_warm_up_ends_when_the_drift_does() -> None:
    falling = [4.0, 3.0, 2.5, 2.0, 1.6, 1.3]
    assert not is_steady(falling)
    assert not is_steady([1.0] * 5)
    assert is_steady([*falling, *[1.0, 1.01, 1.0, 1.005, 1.0, 1.0]])
    assert is_steady([1.0, 3.0, 1.2, 2.8, 1.1, 2.0])  # noise, not drift


def test_a_drift_that_goes_on_is_told() -> None:
    assert drift(times(1.0, 0) * np.linspace(1, 1.5, 15)[:, None]) == pytest.approx(1 / 3, abs=0.03)


def test_measuring_adds_less_than_two_microseconds() -> None:
    assert min(overhead_us() for _ in range(5)) < 2


def test_the_front_has_what_nothing_beats() -> None:
    points = [(2.0, 0.9), (1.0, 0.8), (3.0, 0.85), (2.0, 0.95), (4.0, 0.99)]
    assert pareto_front(points) == [(1.0, 0.8), (2.0, 0.95), (4.0, 0.99)]
