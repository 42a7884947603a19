"""What the command turns into one line and an exit code. Everything else is a bug and shows its trace."""

from __future__ import annotations

import threading


class InputError(Exception):
    """Wrong use or bad input: exit code 2. Says what was wrong, what was expected, what to do."""


class HangError(InputError):
    """A driver did not answer in time; `thread` was left behind in it."""

    def __init__(self, told: str, thread: threading.Thread) -> None:
        super().__init__(told)
        self.thread = thread


class CheckError(Exception):
    """A check or gate that was asked for did not hold: exit code 1. Says which, and by how much."""
