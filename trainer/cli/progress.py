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
    from trainer.data.pool_rendering import PoolProgress
    from trainer.training.monitor import TrainingProgress

FIRST_LINE_S, LINE_INTERVAL_S = 5.0, 60.0
"""Times of the first line of a stage in a log, and between later ones."""
STOP_NOTE = "Ctrl-C: stopping after this step"
RENDERING, LABELLING = "scenes", "soft labels"
"""Names of the rendering and of the teachers' maps among the stages."""


@dataclass
class _StageClock:
    """Times of a stage or of a rendering, from the end of its first step in this process.

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
    """Shows step, loss, rate and remaining time of each stage, and of the rendering of scenes before them.

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
        self._shown, self._writes_lines = shown, shown and not ERR_CONSOLE.is_terminal
        width = max(map(len, steps))
        self._tasks = {
            stage: bar.add_task(f"{stage:{width}}", total=count, status="reading data", visible=index == 0)
            for index, (stage, count) in enumerate(steps.items())
        }
        self._clocks: dict[str, _StageClock] = {}
        self.wait_shares: dict[str, float] = {}

    def on_step(self, progress: TrainingProgress) -> None:
        """Show a step."""
        self.wait_shares[progress.stage] = progress.data_wait
        status = [f"loss {progress.loss:.3f}", f"{progress.data_wait:.0%} waiting"]
        self._show(progress.stage, "step", progress.step, progress.steps, status)

    def on_pool(self, progress: PoolProgress) -> None:
        """Show how far the rendering of scenes is; at its start, say what it will take."""
        size = format_size(progress.total_bytes)
        if RENDERING not in self._tasks:
            self._tasks[RENDERING] = self._bar.add_task(RENDERING, total=progress.total, status="")
            if self._shown:
                processes = f"{progress.processes} process{'es' * (progress.processes > 1)}"
                ERR_CONSOLE.print(
                    f"rendering {progress.total} scenes into {progress.folder}, once: {size}, about "
                    f"{format_duration(progress.expected_s)} with {processes}",
                    highlight=False,
                    soft_wrap=True,
                )
        self._show(RENDERING, "scene", progress.scenes, progress.total, [size])

    def on_labels(self, done: int, total: int) -> None:
        """Show for how many shards of the pool the teachers' maps are computed."""
        if LABELLING not in self._tasks:
            self._tasks[LABELLING] = self._bar.add_task(LABELLING, total=total, status="")
        self._show(LABELLING, "shard", done, total, [])

    def _show(self, name: str, unit: str, step: int, steps: int, status: list[str]) -> None:
        """Update the bar of a stage, and write a line to a log now and then."""
        now_s = time.monotonic()
        clock = self._clocks.setdefault(name, _StageClock(step, now_s, now_s + FIRST_LINE_S))
        done, seconds = step - clock.first_step, now_s - clock.first_s
        if done and seconds > 0:
            remaining_s = (steps - step) * seconds / done
            status += [format_rate(done / seconds, unit), f"{format_duration(remaining_s)} left"]
        text = ", ".join(status)
        self._bar.update(self._tasks[name], completed=step, status=text, visible=True)
        if self._writes_lines and done and now_s >= clock.line_s:
            clock.line_s = now_s + LINE_INTERVAL_S
            ERR_CONSOLE.print(f"{name}: {unit} {step} of {steps}, {text}", highlight=False, soft_wrap=True)

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


def format_rate(steps_per_s: float, unit: str = "step") -> str:
    """Return a rate as steps per second or, if it is slow, as seconds per step."""
    return f"{steps_per_s:.1f} {unit}s/s" if steps_per_s >= 1 else f"{1 / steps_per_s:.1f} s/{unit}"


def format_size(count: int) -> str:
    """Return a size in MB or GB."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def format_duration(seconds: float) -> str:
    """Return a duration in hours and minutes, minutes, or seconds."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
