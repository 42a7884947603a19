"""History of profiles in the cache, with a folder per board, so that a regression shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from edge.core.atomic_files import cache_folder
from edge.core.errors import InputError
from edge.profiler.measurement.conditions import machine_name
from edge.profiler.measurement.document import Document
from edge.profiler.measurement.machine_load import describe_busy_machine
from edge.profiler.report.documents import read_document, write_document

MAX_SAVED = 100
"""Documents per board; the oldest are removed."""


def board_folder(document: Document) -> Path:
    """Return the folder with the documents of the board, in its power mode."""
    name = f"{machine_name(document['machine'])} {document['machine']['power_mode'] or ''}"
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return cache_folder() / "profiles" / f"{slug[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def save_to_history(document: Document) -> Path:
    """Save a document and return its path.

    Raises:
        InputError: The cache cannot be written.
    """
    folder = board_folder(document)
    stamp = re.sub(r"\D", "", document["created"])[:14]
    digest = hashlib.sha256(repr(document["latencies"]).encode()).hexdigest()[:8]
    path = folder / f"{stamp}-{digest}.json"
    write_document(document, path)
    # The names begin with the time, so that they sort from the oldest to the newest.
    for old in sorted(folder.glob("*.json"))[:-MAX_SAVED]:
        old.unlink(missing_ok=True)
    return path


def load_history(document: Document) -> list[Document]:
    """Return the board's earlier documents of the same release, settings and rows, the oldest first.

    The same release has the same name and the same `release.json`. Documents of earlier versions have no hash
    of it: their graphs must be the same.
    """
    history = []
    for path in sorted(board_folder(document).glob("*.json")):
        try:
            earlier = read_document(path)
        except InputError:  # of another version, or damaged: it must not stop a new measurement
            continue
        is_same = _row_keys(earlier) & _row_keys(document) and _is_same_release(earlier, document)
        if is_same and earlier["created"] <= document["created"]:
            history.append(earlier)
    return history


def latest_baseline(history: Sequence[Document]) -> Document:
    """Return the document to compare a new one with: the latest from a machine that was not busy, if any."""
    quiet = [document for document in history if not describe_busy_machine(document)]
    return (quiet or history)[-1]


def _is_same_release(a: Document, b: Document) -> bool:
    if a["release"] != b["release"]:
        return False
    if "release_sha256" in a and "release_sha256" in b:
        return bool(a["release_sha256"] == b["release_sha256"])
    graphs_a, graphs_b = a.get("graphs_sha256", {}), b.get("graphs_sha256", {})
    return all(graphs_a[name] == graphs_b[name] for name in graphs_a.keys() & graphs_b.keys())


def _row_keys(document: Document) -> set[tuple[object, ...]]:
    common = document["threads"], document["protocol"]
    return {(*common, row["name"], row["form"], row["engine"].split()[0]) for row in document["latencies"]}
