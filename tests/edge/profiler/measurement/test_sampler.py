from __future__ import annotations

import numpy as np
import pytest

from edge.profiler.measurement.candidate import Candidate, find_candidates, golden_feeds
from edge.profiler.measurement.sampler import (
    CALLS_PER_TURN,
    SLOW_CALLS_PER_TURN,
    CandidateMeasurement,
    NullRunner,
    choose_calls_per_turn,
    measure_overhead,
    measure_rounds,
    open_candidates,
    time_calls,
    warm_up,
)
from edge.release.manifest import load_release
from tests.support.clocks import SteppingClock


def null_candidate() -> tuple[CandidateMeasurement, NullRunner]:
    runner = NullRunner()
    return CandidateMeasurement(Candidate("fp32", "stream", 1, lambda: runner, 0)), runner


def test_each_call_is_timed_by_the_clock() -> None:
    assert time_calls(NullRunner(), [{}], 3, SteppingClock(7)) == [7, 7, 7]


def test_overhead_is_the_median_of_empty_calls() -> None:
    assert measure_overhead(SteppingClock(1500)) == 1.5


@pytest.mark.parametrize(
    ("call_ms", "expected"), [(49, CALLS_PER_TURN), (50, CALLS_PER_TURN), (51, SLOW_CALLS_PER_TURN)]
)
def test_turn_is_shorter_when_a_call_is_slow(call_ms: int, expected: int) -> None:
    clock = SteppingClock(call_ms * 1_000_000)
    assert choose_calls_per_turn([null_candidate()], [[{}]], clock) == expected


def test_warm_up_ends_when_the_latency_is_steady() -> None:
    measurement, runner = null_candidate()
    median_ms = warm_up((measurement, runner), [{}], 50, CALLS_PER_TURN, SteppingClock(2_000_000))
    assert median_ms == 2.0
    assert measurement.steady
    assert measurement.warm_up == 6 * CALLS_PER_TURN  # two groups of three turns


def test_warm_up_ends_unsteady_when_its_time_is_over() -> None:
    class SpeedingClock(SteppingClock):
        """Clock whose calls become faster without an end."""

        def __call__(self) -> int:
            self.step_ns = max(1_000_000, self.step_ns - 100_000)
            return super().__call__()

    measurement, runner = null_candidate()
    warm_up((measurement, runner), [{}], 20, CALLS_PER_TURN, SpeedingClock(100_000_000))
    assert not measurement.steady
    assert 20 < measurement.warm_up < 200


def test_each_round_begins_with_another_candidate() -> None:
    release = load_release("skd-64")
    candidates, _ = find_candidates(release, ["fp32", "int8"], "stream", threads=1)
    feeds = [golden_feeds(release, "stream", 1)] * 2
    with open_candidates(candidates, feeds) as opened:
        assert measure_rounds(opened, feeds, 4, 5)
        (fp32, _), (int8, _) = opened
        fp32_is_first = [a < b for a, b in zip(fp32.turns_at_s, int8.turns_at_s, strict=True)]
    assert fp32_is_first == [True, False, True, False]
    assert all(np.shape(measurement.times_ms) == (4, 5) for measurement in (fp32, int8))
