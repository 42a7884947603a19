"""Canonical JSON: each document has exactly one byte sequence, so that its signature and hash are stable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge.core.errors import InputError
from edge.core.guarded_files import parse_json


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a document: sorted keys, no spaces, ASCII, one newline at the end."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(data: bytes, label: str) -> dict[str, Any]:
    """Parse a canonical document.

    Args:
        data: The bytes that `encode` returned.
        label: What errors call the document.

    Raises:
        InputError: The data is not a JSON object, or not in canonical form.
    """
    try:
        document = parse_json(data)
        if isinstance(document, dict) and encode(document) == data:
            return document
    except ValueError:
        pass
    raise InputError(f"{label} is not the canonical JSON that aerogaze writes: it was damaged or changed")
