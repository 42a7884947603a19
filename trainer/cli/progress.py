"""The progress bar of the trainer's commands."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


def progress_bar(verb: str, *columns: ProgressColumn, shown: bool = True, transient: bool = True) -> Progress:
    """Return a bar that counts steps on stderr: none where that is no terminal, or if it is not `shown`.

    `columns` come after the count; `transient` bars leave no trace.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn(f"{verb} {{task.description}}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=transient,
        disable=not (console.is_terminal and shown),
    )
