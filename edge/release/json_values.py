"""Checked values of JSON documents. Every function raises ValueError for a value of another kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def parse_text(value: Any) -> str:
    """Return a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a non-empty string")
    return value


def parse_number(value: Any) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def parse_integer(value: Any, minimum: int = 0) -> int:
    """Return an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{value!r} is not an integer of at least {minimum}")
    return value


def parse_choice(value: Any, choices: tuple[T, ...]) -> T:
    """Return the one of `choices` that equals the value."""
    if value not in choices:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, choices))}")
    return next(choice for choice in choices if choice == value)


def parse_optional(value: Any, parse: Callable[[Any], T]) -> T | None:
    """Return None for None, else the result of `parse`."""
    return None if value is None else parse(value)
