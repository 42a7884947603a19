"""Times of the stages of a run."""

from __future__ import annotations

import pytest

from edge.core.stage_times import StageTimes, limiting_stage


def test_shares_and_means_are_those_of_the_measured_times() -> None:
    times = StageTimes()
    times.add("engine", 0.25, 1)
    times.add("engine", 0.5, 0)  # the same frame, collected
    times.add("decode", 2.0, 4)
    assert times.busy_shares(4.0) == {"decode": 0.5, "engine": 0.1875}
    assert list(times.busy_shares(4.0)) == ["decode", "engine"]
    assert times.busy_shares(1.0)["decode"] == 1.0, "a share of a thread is 1 at most"
    assert times.mean_ms("engine") == 750
    assert times.mean_ms("prepare") == 0


@pytest.mark.parametrize(
    ("shares", "live", "stage"),
    [
        ({"decode": 0.95, "sink:overlay": 0.9, "engine": 0.1}, False, "decode"),
        ({"sink:overlay": 0.98, "decode": 0.4}, False, "sink:overlay"),
        ({"decode": 0.6, "engine": 0.5}, False, None),
        ({"source": 0.99, "engine": 0.3}, True, "source"),
        ({"source": 0.99, "engine": 0.97}, True, "engine"),
        ({"source": 0.5, "sink:overlay": 1.0, "engine": 0.2}, True, None),  # a live run waits for no sink
        ({}, True, None),
    ],
)
def test_stage_that_works_most_of_the_time_limits_the_rate(
    shares: dict[str, float], live: bool, stage: str | None
) -> None:
    assert limiting_stage(shares, live) == stage
