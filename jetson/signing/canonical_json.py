"""JSON in one spelling only: what was signed is what is read, to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge.core.errors import InputError


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the document's one spelling: sorted keys, no spaces, ASCII, a newline at the end."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(data: bytes, what: str) -> dict[str, Any]:
    """Read a document back.

    Raises:
        InputError: it is no JSON object, or spelt otherwise than `encode` spells it; `what` is named.
    """
    try:
        document = json.loads(data)
        if isinstance(document, dict) and encode(document) == data:
            return document
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{what} is not the canonical JSON that aerogaze writes: it was damaged or changed")
