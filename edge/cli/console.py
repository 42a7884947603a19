"""Terminal output of the commands: console, log lines and progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from edge.cli import json_log
from edge.core.foreign_text import printable


class _StderrConsole(Console):
    def print(self, *objects: Any, **settings: Any) -> None:
        """Print objects, or write them as one JSON line."""
        if not json_log.is_used():
            super().print(*objects, **settings)
            return
        text = " ".join(str(each) for each in objects)
        is_warning = text.startswith("warning: ")
        json_log.write_line("warning" if is_warning else "info", text.removeprefix("warning: "))

    def on_broken_pipe(self) -> None:
        """Stop printing. rich itself would exit, and also redirect standard output to /dev/null."""
        self.quiet = True


ERR_CONSOLE = _StderrConsole(stderr=True, markup=False)


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}" if task.speed else "")


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception, SystemExit):  # the run continues if standard error was closed
            if json_log.is_used():
                json_log.write_record(record)
                return
            text = f"aerogaze: {printable(record.getMessage())}"  # it may quote a camera or a file name
            ERR_CONSOLE.print(text, highlight=False, soft_wrap=True)


_HIDE_NEXT_STEPS: ContextVar[bool] = ContextVar("hide_next_steps", default=False)


def print_next_step(step: str) -> None:
    """Print what the user does next, in one line."""
    if not _HIDE_NEXT_STEPS.get():
        print(f"next: {step}")


@contextmanager
def hide_next_steps() -> Iterator[None]:
    """Print no next steps while the block runs, because the caller takes them itself."""
    token = _HIDE_NEXT_STEPS.set(True)
    try:
        yield
    finally:
        _HIDE_NEXT_STEPS.reset(token)


@contextmanager
def show_log(logger: logging.Logger) -> Iterator[None]:
    """Print the records of a logger while the block runs, above a progress bar if there is one."""
    handler, level = _ConsoleHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def progress_bar(
    title: str = "",
    unit: str | None = None,
    *,
    columns: Sequence[ProgressColumn] = (),
    spinner: bool = False,
    shown: bool = True,
    transient: bool = True,
) -> Progress:
    """Return a progress bar on standard error; it stays hidden where that is no terminal.

    Args:
        title: Text before the description of each task.
        unit: Unit of the speed column, such as "frames/s"; None leaves that column out.
        columns: Further columns, between the count and the elapsed time.
        spinner: Start each line with a spinner.
        shown: False hides the bar on a terminal, too.
        transient: Remove the bar when it ends.
    """
    return Progress(
        *([SpinnerColumn()] if spinner else []),
        TextColumn(f"{title} {{task.description}}" if title else "{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *([_RateColumn(unit)] if unit else []),
        *columns,
        TimeElapsedColumn(),
        console=ERR_CONSOLE,
        transient=transient,
        disable=not (ERR_CONSOLE.is_terminal and shown) or json_log.is_used(),
    )
