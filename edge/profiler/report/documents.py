"""Measurements on disk: written whole, read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edge.core.atomic_files import written_file
from edge.core.errors import InputError
from edge.profiler.measurement.document import SCHEMA, Document
from edge.profiler.measurement.statistics import Times

NEEDED = ("created", "release", "machine", "versions", "threads", "conditions", "latencies", "protocol")


def write(document: Document, path: Path) -> None:
    """Write a measurement as JSON."""
    with written_file(path) as place:
        place.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> Document:
    """Return a measurement.

    Raises:
        InputError: it is no measurement that this version reads; what it is.
    """
    try:
        document: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
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
        if missing := next((name for name in NEEDED if name not in document), None):
            raise KeyError(missing)
        for row in document["latencies"]:
            str(row["name"]), float(row["p50_ms"])
            if times_of(row).ndim != 2 or not times_of(row).size:
                raise ValueError("times_ms is no table")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no whole measurement ({error}): measure again") from None
    found: Document = document
    return found


def times_of(row: Document) -> Times:
    """Return a row's times (rounds, calls) in milliseconds."""
    return np.asarray(row["times_ms"], np.float64)
