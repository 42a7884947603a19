"""TOML reader. `tomllib` is the module of the standard library, or `tomli` on Python 3.10."""

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
    """Return the content of a TOML file.

    Args:
        path: The file.
        expected: What the file should contain, for error messages.

    Raises:
        InputError: The file cannot be read, or is not valid TOML.
    """
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; expected {expected}") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise InputError(f"{path} is not valid TOML: {error}; expected {expected}") from None
    return document
