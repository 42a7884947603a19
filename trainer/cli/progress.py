"""Progress of a training: a bar on a terminal, lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from edge.cli.console import ERR_CONSOLE, progress_bar

if TYPE_CHECKING:
    from trainer.training.monitor import TrainingProgress

FIRST_LINE_S, LINE_INTERVAL_S = 5.0, 60.0
"""Times of the first line of a stage in a log, and between later ones."""
STOP_NOTE = "Ctrl-C: stopping after this step"


@dataclass
class _StageClock:
    """Times of a stage, from the end of its first step in this process.

    Attributes:
        first_step: Number of the first step.
        first_s: Time of its end.
        line_s: Time of the next line in a log.
    """

    first_step: int
    first_s: float
    line_s: float


class _StopColumn(ProgressColumn):
    """Shows that the training is about to stop. The bar's own thread draws it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_stopping = False

    def render(self, task: Task) -> Text:
        """Return the text of a stage's line."""
        return Text(STOP_NOTE if self.is_stopping and not task.finished else "")


class TrainingReporter:
    """Shows step, loss, rate and remaining time of each stage.

    Args:
        steps: Number of steps of each stage.
        bar: Progress bar; it is hidden where standard error is no terminal.
        stop_column: Column of the bar that says that the training is about to stop.
        shown: Whether anything is shown.

    Attributes:
        wait_shares: Share of each stage's time that was spent waiting for data.
    """

    def __init__(
        self, steps: Mapping[str, int], bar: Progress, stop_column: _StopColumn, shown: bool
    ) -> None:
        self._bar, self._stop_column = bar, stop_column
        self._writes_lines = shown and not ERR_CONSOLE.is_terminal
        width = max(map(len, steps))
        self._tasks = {
            stage: bar.add_task(f"{stage:{width}}", total=count, status="reading data", visible=index == 0)
            for index, (stage, count) in enumerate(steps.items())
        }
        self._clocks: dict[str, _StageClock] = {}
        self.wait_shares: dict[str, float] = {}

    def on_step(self, progress: TrainingProgress) -> None:
        """Show a step."""
        now_s = time.monotonic()
        clock = self._clocks.setdefault(
            progress.stage, _StageClock(progress.step, now_s, now_s + FIRST_LINE_S)
        )
        done, seconds = progress.step - clock.first_step, now_s - clock.first_s
        status = f"loss {progress.loss:.3f}"
        if done and seconds > 0:
            remaining_s = (progress.steps - progress.step) * seconds / done
            status += f", {format_rate(done / seconds)}, {format_duration(remaining_s)} left"
        self._bar.update(self._tasks[progress.stage], completed=progress.step, status=status, visible=True)
        self.wait_shares[progress.stage] = progress.data_wait
        if self._writes_lines and done and now_s >= clock.line_s:
            clock.line_s = now_s + LINE_INTERVAL_S
            line = f"{progress.stage}: step {progress.step} of {progress.steps}, {status}"
            ERR_CONSOLE.print(line, highlight=False, soft_wrap=True)

    def on_interrupt(self) -> None:
        """Say at once that Ctrl-C was heard; called in a signal handler."""
        self._stop_column.is_stopping = True
        if self._writes_lines:
            # Not through the console or sys.stderr: the handler may have interrupted one of their calls.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{STOP_NOTE}\n".encode())


@contextmanager
def report_training(steps: Mapping[str, int], shown: bool) -> Iterator[TrainingReporter]:
    """Show the progress of a training while the block runs.

    Args:
        steps: Number of steps of each stage.
        shown: False shows nothing, as in all processes of a distributed training but the first.
    """
    stop_column = _StopColumn()
    columns = [TextColumn("{task.fields[status]}"), stop_column]
    with progress_bar("train", columns=columns, shown=shown, transient=False) as bar:
        yield TrainingReporter(steps, bar, stop_column, shown)


def format_rate(steps_per_s: float) -> str:
    """Return a rate as steps per second or, if it is slow, as seconds per step."""
    return f"{steps_per_s:.1f} steps/s" if steps_per_s >= 1 else f"{1 / steps_per_s:.1f} s/step"


def format_duration(seconds: float) -> str:
    """Return a duration in hours and minutes, minutes, or seconds."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
