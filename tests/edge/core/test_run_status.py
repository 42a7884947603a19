"""What a pipeline says of itself."""

import logging

import pytest

from edge.core.run_status import QUIET_S, RECENT, About, Status


def test_counts_rates_and_faults_are_told_once_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    """Thirty results a second for longer than is kept; one fault twice, in two episodes."""
    now = [100.0]
    status = Status(About("skd-64", "int8", "none", "camera"), lambda: now[0])
    for index in range(RECENT + 10):
        now[0] += 1 / 30
        status.result(float(index))
    status.drop(2)
    status.enter("running")
    with caplog.at_level(logging.INFO, "aerogaze"):
        for _ in range(2):
            for _ in range(3):  # it comes and goes
                status.fault("source", "unplugged")
                status.recovered("source")
                now[0] += QUIET_S - 0.1
                seen = status.snapshot()
            for _ in range(3):
                status.recovered("source")
                now[0] += 0.1
        status.recovered("source")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["source: unplugged", "source: recovered"] * 2
    assert seen.open_faults == {"source": "unplugged"}
    now[0] = 100 + (RECENT + 10) / 30
    seen = status.snapshot()
    assert (seen.frames, seen.dropped, seen.state) == (RECENT + 10, 2, "running")
    assert seen.fps == pytest.approx(30)
    assert seen.latencies_ms == tuple(map(float, range(10, RECENT + 10)))
    assert seen.uptime_s == pytest.approx((RECENT + 10) / 30)
    assert (seen.faults, seen.open_faults) == ({"source": 2}, {})
