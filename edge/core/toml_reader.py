"""TOML reader. `tomllib` is the module of the standard library, or `tomli` on Python 3.10."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from edge.core.errors import InputError
from edge.core.guarded_files import MAX_DEPTH, check_depth, read_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml", "tomllib"]
MAX_TOML_BYTES = 1 << 20
_TOKENS = re.compile(
    r"""
    "{3} (?: \\. | [^\\] )*? (?: "{3,5} | \\?\Z )
    | '{3} .*? (?: '{3,5} | \Z )
    | " (?: \\. | [^"\\\n] )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    | [.,=\[\]{}\n]
    """,
    re.VERBOSE | re.DOTALL,
)
"""Strings and comments, of which the last may be open; dots; and what stands between keys.

A string of several lines may end in two quotes of its own, in front of the three that close it."""


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: The file, or a pipe such as /dev/stdin.
        expected: What the file should contain, for error messages.

    Raises:
        InputError: The file cannot be read, or is not valid TOML.
    """
    data = read_bytes(path, MAX_TOML_BYTES, expected, accepts_pipe=True)
    try:
        text = data.decode("utf-8-sig")  # some editors write a mark first
        _check_keys(text)
        document: dict[str, Any] = tomllib.loads(text)
        check_depth(document)
        _check_integers(document)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path} is not valid TOML: {reason}; expected {expected}") from None
    return document


def _check_keys(text: str) -> None:
    """Check that no key has too many parts: the parser's time grows with the square of their number.

    Raises:
        ValueError: A key has more than `MAX_DEPTH` parts.
    """
    dots = 0
    for token in _TOKENS.finditer(text):
        if token[0] == ".":
            dots += 1
        elif token[0] in ",=[]{}\n":
            dots = 0
        if dots >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _check_integers(value: Any) -> None:
    """Check that integers have 64 bits, as TOML defines them: Python cannot print much longer ones.

    Raises:
        ValueError: An integer is larger.
    """
    if isinstance(value, (dict, list)):
        for child in value.values() if isinstance(value, dict) else value:
            _check_integers(child)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError("an integer has more than 64 bits")
