"""Measurements kept on the machine, a folder for each board, so that a regression shows."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edge.core.atomic_files import cache_folder
from edge.core.errors import InputError
from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document
from edge.profiler.report import documents

KEPT = 100
"""Measurements of a board; the oldest go."""


def folder_of(document: Document) -> Path:
    """Return where measurements of a board are kept."""
    name = f"{machine_name(document['machine'])} {document['machine']['power_mode'] or ''}"
    words = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return cache_folder() / "profiles" / f"{words[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def keep(document: Document) -> Path:
    """Keep a measurement, and return its file.

    Raises:
        InputError: the cache cannot be written.
    """
    folder = folder_of(document)
    stamp = re.sub(r"\D", "", document["created"])[:14]
    digest = hashlib.sha256(repr(document["latencies"]).encode()).hexdigest()[:8]
    path = folder / f"{stamp}-{digest}.json"
    documents.write(document, path)
    for old in sorted(folder.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def earlier(document: Document) -> list[Document]:
    """Return the board's measurements of the same release, settings and rows, the oldest first."""
    found = []
    for path in sorted(folder_of(document).glob("*.json")):
        try:
            one = documents.read(path)
        except InputError:  # of another version, or half gone: not ours to complain about
            continue
        if _key(one) & _key(document) and one["created"] <= document["created"]:
            found.append(one)
    return found


def _key(document: Document) -> set[tuple[object, ...]]:
    same = document["release"], document["threads"], document["protocol"]
    return {(*same, row["name"], row["form"], row["engine"].split()[0]) for row in document["latencies"]}
