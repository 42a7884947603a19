"""Parser for what a board answers: the desk trusts no board, so each value has a type and a limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from edge.core.foreign_text import printable
from edge.core.guarded_files import parse_json as parse_guarded
from edge.hardware.board import BoardFacts

MAX_DOCUMENT_CHARS = 1 << 20
MAX_NUMBER = 1 << 53
"""Numbers beyond this cannot be told apart as floats, and no counter or duration is as large."""
MAX_ROWS = 1000
MAX_TEXT_CHARS = 1 << 16
MAX_NAME_CHARS = 256
MAX_VERSION_CHARS = 64
_Check = Callable[[Any], bool]


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: The text is too long or too deeply nested, or is no JSON object.
    """
    if len(text) > MAX_DOCUMENT_CHARS:
        raise ValueError(f"more than {MAX_DOCUMENT_CHARS} characters")
    document = parse_guarded(text)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def parse_status(text: str) -> dict[str, Any]:
    """Parse the output of `aerogaze device status --json`.

    Returns:
        The document. The keys that the desk reads have the types that aerogaze writes; others are as sent.

    Raises:
        ValueError: It is something else. The message names the key.
    """
    status = parse_json(text)
    if not _is_count(status.get("schema")) or status["schema"] != 1:
        raise ValueError("schema")
    _check_values(status, _STATUS_CHECKS)
    for row in status["measured"]:
        _check_values(row, _MEASURED_CHECKS)
        if not (row.get("power_w") is None or _is_number(row["power_w"])):
            raise ValueError("power_w")
    if set(status["board"]) != {field.name for field in fields(BoardFacts)}:
        raise ValueError("board")
    power_modes = status["board"]["power_modes"]
    is_table = isinstance(power_modes, dict) and len(power_modes) <= MAX_ROWS
    if not is_table or not all(_is_name(name) for item in power_modes.items() for name in item):
        raise ValueError("power_modes")
    for key, value in status["board"].items():
        if key != "power_modes" and not _is_optional(_is_name)(value):
            raise ValueError(key)
    printable_status: dict[str, Any] = _make_printable(status)
    return printable_status


def _make_printable(value: Any) -> Any:
    """Return a document whose texts cannot control the terminal that they are printed on."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _make_printable(child) for key, child in value.items()}
    return [_make_printable(child) for child in value] if isinstance(value, list) else value


def is_version(value: object) -> bool:
    """Return whether a value has the form of a version: short, and of the characters of PEP 440."""
    return isinstance(value, str) and bool(re.fullmatch(rf"[0-9A-Za-z.+!_-]{{1,{MAX_VERSION_CHARS}}}", value))


def is_short_text(value: object, limit: int = MAX_NAME_CHARS) -> bool:
    """Return whether a value is a text of at most `limit` characters."""
    return isinstance(value, str) and len(value) <= limit


def _is_name(value: object) -> bool:
    return is_short_text(value)


def _is_text(value: object) -> bool:
    return is_short_text(value, MAX_TEXT_CHARS)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_NUMBER  # not isinstance: bool is a subclass of int


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -MAX_NUMBER < value < MAX_NUMBER  # type: ignore[operator]


def _is_optional(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _is_list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and len(value) <= MAX_ROWS and all(map(check, value))


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _check_values(document: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    for key, check in checks.items():
        if key not in document or not check(document[key]):
            raise ValueError(key)


_STATUS_CHECKS: Mapping[str, _Check] = {
    "aerogaze": is_version,
    "trusts": _is_list_of(_is_name),
    "state": lambda value: value in ("none", "trial", "good"),
    "slot": lambda value: value in (None, "a", "b"),
    "release": _is_optional(_is_name),
    "counter": _is_optional(_is_count),
    "highest_counter": _is_count,
    "precision": _is_optional(_is_name),
    "why": _is_optional(_is_text),
    "measured": _is_list_of(_is_table),
    "board": _is_table,
}
_MEASURED_CHECKS: Mapping[str, _Check] = {
    "precision": _is_name,
    "cc": _is_number,
    "p50_ms": _is_number,
    "p99_ms": _is_number,
    "refused": _is_optional(_is_text),
}
