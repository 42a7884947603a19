"""Outputs that are no files: the standard output, a named pipe, a terminal."""

from __future__ import annotations

import os
import re
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from edge.core.atomic_files import translate_write_errors
from edge.core.errors import ClosedPipeError

_STANDARD = re.compile(r"/dev/(?:std(?P<name>out|err)|fd/(?P<fd>[12]))|/proc/self/fd/(?P<proc>[12])")


def standard_stream(path: Path) -> int | None:
    """Return 1 or 2 for a name of the standard output or error, such as `-` and /dev/stdout; else None."""
    if str(path) == "-":
        return 1
    match = _STANDARD.fullmatch(str(path))
    if match is None:
        return None
    return int(match["fd"] or match["proc"] or {"out": 1, "err": 2}[match["name"]])


def is_stream(path: Path) -> bool:
    """Return whether an output is written as it comes, instead of being moved to its path at the end."""
    if standard_stream(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


class _StandardStream(FileIO):
    """Standard output or error, whose reader may end when it has read enough."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ClosedPipeError("nobody reads the standard output any more") from None


def open_stream(path: Path) -> FileIO:
    """Open an output stream for unbuffered writing.

    Raises:
        InputError: It cannot be opened, or it is a named pipe that nobody reads. From `write`,
            `ClosedPipeError` if the reader of the standard output has ended.
    """
    with translate_write_errors(path):
        standard = standard_stream(path)
        if standard is not None:
            return _StandardStream(os.dup(standard), "wb")
        # A named pipe without a reader would otherwise wait for one for ever.
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(handle, True)
        return FileIO(handle, "wb")
