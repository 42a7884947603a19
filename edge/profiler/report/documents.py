"""Profile documents as JSON files, written atomically and checked when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import parse_json
from edge.profiler.measurement.document import SCHEMA, Document, Row
from edge.profiler.measurement.statistics import Times

REQUIRED_KEYS = (
    "created",
    "release",
    "machine",
    "versions",
    "threads",
    "conditions",
    "latencies",
    "protocol",
)


def write_document(document: Document, path: Path) -> None:
    """Write a document as JSON."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_document(path: Path) -> Document:
    """Read a document.

    Raises:
        InputError: The file is no document of this schema, or an incomplete one.
    """
    try:
        document: Any = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON ({error}); expected what aerogaze profile --json wrote"
        ) from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}; this aerogaze reads measurements of schema {SCHEMA}: "
            "measure again"
        )
    try:
        if missing := next((name for name in REQUIRED_KEYS if name not in document), None):
            raise KeyError(missing)
        for row in document["latencies"]:
            str(row["name"]), float(row["p50_ms"])  # raises if one is missing or no number
            if row_times(row).ndim != 2 or not row_times(row).size:
                raise ValueError("times_ms is no table")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is an incomplete measurement ({error}): measure again") from None
    checked: Document = document
    return checked


def row_times(row: Row) -> Times:
    """Return the latencies of a row (rounds, calls per turn) in milliseconds."""
    return np.asarray(row["times_ms"], np.float64)
