"""Log lines as JSON objects on the standard error (`--log json`), with priorities for systemd's journal."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone

import click

PRIORITIES = {"error": 3, "warning": 4, "info": 6}
"""Priority of each level in the journal (sd-daemon(3))."""
_STATE = {"is_used": False}


def is_used() -> bool:
    """Return whether the command writes JSON lines."""
    return _STATE["is_used"]


def use(used: bool) -> None:
    """Write JSON lines from now on, or text."""
    _STATE["is_used"] = used


def write_record(record: logging.LogRecord) -> None:
    """Write a record; those about faults have an attribute `kind` and their `text` without it."""
    level = record.levelname.lower()
    text = getattr(record, "text", None) or record.getMessage()
    fields = {name: getattr(record, name) for name in ("camera", "kind") if hasattr(record, name)}
    write_line(level if level in PRIORITIES else "info", text, fields, record.created)


def write_line(
    level: str, message: str, fields: Mapping[str, str] | None = None, created_s: float | None = None
) -> None:
    """Write one line.

    Args:
        level: Key of `PRIORITIES`.
        message: The text.
        fields: Camera of a run with several, and kind of a fault.
        created_s: Seconds since 1970; None for now.
    """
    if sys.stderr is None:  # closed before the start; print would take the standard output
        return
    created = datetime.fromtimestamp(time.time() if created_s is None else created_s, timezone.utc)
    line = {"time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "level": level}
    line |= {**(fields or {}), "message": message}
    # The journal takes the priority from this prefix and removes it.
    prefix = f"<{PRIORITIES[level]}>" if _is_journal() else ""
    with suppress(OSError, ValueError):  # the run continues if standard error was closed
        print(f"{prefix}{json.dumps(line)}", file=sys.stderr, flush=True)


def _is_journal() -> bool:
    """Return whether the standard error goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    with suppress(OSError, ValueError):
        status = os.fstat(sys.stderr.fileno())
        return (str(status.st_dev), str(status.st_ino)) == (device, inode)
    return False


log_option = click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, value: use(value == "json"),
    help="Form of the log on the standard error; json is one object per line.",
)
