"""What edge's commands show on a terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class _Err(Console):
    def on_broken_pipe(self) -> None:
        """Say nothing more; rich would exit, and put /dev/null in the place of standard output too."""
        self.quiet = True


ERR = _Err(stderr=True, markup=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}" if task.speed else "")


class _ToConsole(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception, SystemExit):  # where standard error is gone: the run is not
            ERR.print(f"aerogaze: {record.getMessage()}", highlight=False, soft_wrap=True)


@contextmanager
def log_shown(logger: logging.Logger) -> Iterator[None]:
    """Print what is logged, over a progress bar if there is one."""
    handler, level = _ToConsole(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def progress_bar(word: str, unit: str) -> Progress:
    """Return a bar that says `word` and a task, and how many `unit` a second; none where no terminal is."""
    return Progress(
        TextColumn(f"{word} {{task.description}}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )
