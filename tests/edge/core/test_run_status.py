"""Tests of the status of a running pipeline."""

import logging

import pytest

from edge.core.run_status import RECENT_RESULTS, RECOVERY_S, RunInfo, Status


def test_status_counts_results_and_logs_a_fault_once_per_episode(caplog: pytest.LogCaptureFixture) -> None:
    """Count more results than are kept, at 30 per second, and report one fault in two episodes."""
    now = [100.0]
    status = Status(RunInfo("skd-64", "int8", "none", "camera"), lambda: now[0])
    for index in range(RECENT_RESULTS + 10):
        now[0] += 1 / 30
        status.count_result(float(index))
    status.count_dropped(2)
    status.set_state("running")
    with caplog.at_level(logging.INFO, "aerogaze"):
        for _ in range(2):
            for _ in range(3):  # an intermittent fault
                status.report_fault("source", "unplugged")
                status.report_recovery("source")
                now[0] += RECOVERY_S - 0.1
                snapshot = status.snapshot()
            for _ in range(3):
                status.report_recovery("source")
                now[0] += 0.1
        status.report_recovery("source")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["source: unplugged", "source: recovered"] * 2
    assert snapshot.open_faults == {"source": "unplugged"}
    now[0] = 100 + (RECENT_RESULTS + 10) / 30
    snapshot = status.snapshot()
    assert (snapshot.frames, snapshot.dropped, snapshot.state) == (RECENT_RESULTS + 10, 2, "running")
    assert snapshot.fps == pytest.approx(30)
    assert snapshot.latencies_ms == tuple(map(float, range(10, RECENT_RESULTS + 10)))
    assert snapshot.uptime_s == pytest.approx((RECENT_RESULTS + 10) / 30)
    assert (snapshot.faults, snapshot.open_faults) == ({"source": 2}, {})
