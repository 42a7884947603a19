"""Exceptions that the commands report as one line and an exit code.

Any other exception is a bug and shows its traceback. `TRACEBACK_VARIABLE` shows it for these, too.
"""

from __future__ import annotations

import threading

TRACEBACK_VARIABLE = "AEROGAZE_TRACEBACK"
"""Environment variable: with any value, the commands print the traceback of each error before its line."""


class InputError(Exception):
    """Wrong usage or invalid input; exit code 2.

    The message says the problem, what was expected, and the remedy.
    """


class HangError(InputError):
    """A driver did not answer in time.

    Attributes:
        thread: The thread that still waits for the driver.
    """

    def __init__(self, message: str, thread: threading.Thread) -> None:
        super().__init__(message)
        self.thread = thread


class ClosedPipeError(InputError):
    """The reader of the standard output has closed it, as `head` does; exit code 141, without a message."""


class CheckError(Exception):
    """A requested check failed; exit code 1. The message says which check, and by how much."""
