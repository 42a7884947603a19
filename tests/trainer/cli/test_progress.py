"""Progress of a training in a log and on a terminal."""

from __future__ import annotations

import io
import time

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'aerogaze[train]'")
from rich.console import Console

from trainer.cli import progress
from trainer.cli.progress import STOP_NOTE, format_duration, format_rate, report_training
from trainer.training.monitor import TrainingProgress


def make_step(step: int) -> TrainingProgress:
    return TrainingProgress("network", step, 1000, 0.5, 0.1)


def test_log_has_step_rate_and_remaining_time_within_the_first_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "ERR_CONSOLE", Console(file=(log := io.StringIO()), width=200))
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    with report_training({"network": 1000}, shown=True) as reporter:
        for step in range(1, 302):
            reporter.on_step(make_step(step))
            now_s += 0.5
    first, *later = log.getvalue().splitlines()
    assert first == "network: step 11 of 1000, loss 0.500, 10% waiting, 2.0 steps/s, 8 min left"
    assert len(later) == 2, "one line each minute: 150 s in all"
    assert reporter.wait_shares == {"network": 0.1}


def test_processes_but_the_first_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "ERR_CONSOLE", Console(file=(log := io.StringIO()), width=200))
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    with report_training({"network": 1000}, shown=False) as reporter:
        reporter.on_step(make_step(1))
        reporter.on_step(make_step(2))
        reporter.on_interrupt()
    assert log.getvalue() == ""


def test_terminal_shows_the_stage_from_the_start_and_that_ctrl_c_was_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    monkeypatch.setattr("edge.cli.console.ERR_CONSOLE", console)
    monkeypatch.setattr(progress, "ERR_CONSOLE", console)
    with report_training({"network": 1000, "tuning": 5}, shown=True) as reporter:
        bar = reporter._bar

        def shown() -> str:
            console.file = io.StringIO()
            console.print(bar.get_renderable())
            return console.file.getvalue()

        assert "reading data" in shown()
        assert "tuning" not in shown()
        reporter.on_step(make_step(1))
        time.sleep(0.01)
        reporter.on_step(make_step(3))
        assert "3/1000" in shown()
        assert "steps/s, " in shown()
        assert " left" in shown()
        assert STOP_NOTE not in shown()
        reporter.on_interrupt()
        assert STOP_NOTE in shown()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (7260, "2 h 01 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration_is_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_slow_rate_is_given_in_seconds_for_each_step() -> None:
    assert format_rate(12.34) == "12.3 steps/s"
    assert format_rate(0.125) == "8.0 s/step"
