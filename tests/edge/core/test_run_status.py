"""What a pipeline says of itself."""

import logging

import pytest

from edge.core.run_status import RECENT_RESULTS, RECOVERY_S, RunInfo, Status


def test_counts_rates_and_faults_are_told_once_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    """Thirty results a second for longer than is kept; one fault twice, in two episodes."""
    now = [100.0]
    status = Status(RunInfo("skd-64", "int8", "none", "camera"), lambda: now[0])
    for index in range(RECENT_RESULTS + 10):
        now[0] += 1 / 30
        status.count_result(float(index))
    status.count_dropped(2)
    status.set_state("running")
    with caplog.at_level(logging.INFO, "aerogaze"):
        for _ in range(2):
            for _ in range(3):  # it comes and goes
                status.report_fault("source", "unplugged")
                status.report_recovery("source")
                now[0] += RECOVERY_S - 0.1
                seen = status.snapshot()
            for _ in range(3):
                status.report_recovery("source")
                now[0] += 0.1
        status.report_recovery("source")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["source: unplugged", "source: recovered"] * 2
    assert seen.open_faults == {"source": "unplugged"}
    now[0] = 100 + (RECENT_RESULTS + 10) / 30
    seen = status.snapshot()
    assert (seen.frames, seen.dropped, seen.state) == (RECENT_RESULTS + 10, 2, "running")
    assert seen.fps == pytest.approx(30)
    assert seen.latencies_ms == tuple(map(float, range(10, RECENT_RESULTS + 10)))
    assert seen.uptime_s == pytest.approx((RECENT_RESULTS + 10) / 30)
    assert (seen.faults, seen.open_faults) == ({"source": 2}, {})
