"""TOML files, by Python's reader under one name on every Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edge.core.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["read_toml", "tomllib"]


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """Read a TOML file. `expected`: what should be in it, for whoever named another.

    Raises:
        InputError: it cannot be read, or is no TOML; where it goes wrong is said.
    """
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; expected {expected}") from None
    except ValueError as error:  # TOML's own, and bytes that are no text
        raise InputError(f"{path} is no TOML: {error}; expected {expected}") from None
    return document
