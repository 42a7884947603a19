"""What the command turns into one line and an exit code. Everything else is a bug and shows its trace."""

from __future__ import annotations


class InputError(Exception):
    """Wrong use or bad input: exit code 2. Says what was wrong, what was expected, what to do."""


class CheckError(Exception):
    """A check or gate that was asked for did not hold: exit code 1. Says which, and by how much."""
