"""Cache of histograms on disk, named by the hash of what they depend on.

Histograms that are complete or partly complete are not counted again.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from calibration.ranges.histogram import BINS, Histogram
from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError

MAX_FILES = 64
"""Limit for the files in the cache; the least recently written ones are deleted."""
_SCHEMA = 2


def cache_key(*parts: bytes | str) -> str:
    """Return the hash of everything that the histograms depend on."""
    digest = hashlib.sha256(f"{_SCHEMA} {BINS}".encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def load_histograms(path: Path) -> tuple[int, dict[str, Histogram]]:
    """Return the number of feeds counted and their histograms; (0, {}) if there is no valid file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names, counts, spans = file["names"].tolist(), file["counts"], file["spans"]
            counted = int(file["fed"])
        if counts.shape != (len(names), 2 * BINS) or spans.shape != (len(names), 3) or counted < 1:
            return 0, {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return 0, {}
    histograms = {}
    for name, row, (reach, low, high) in zip(names, counts, spans.tolist(), strict=True):
        histogram = histograms[name] = Histogram()
        histogram.counts, histogram.reach = row.astype(np.int64), reach
        histogram.low, histogram.high = low, high
    return counted, histograms


def save_histograms(path: Path, counted: int, histograms: Mapping[str, Histogram]) -> None:
    """Save histograms, and delete the oldest files beyond `MAX_FILES`.

    Args:
        path: The file.
        counted: Number of feeds that the histograms are of.
        histograms: Histograms by tensor name.

    Raises:
        InputError: If the file cannot be written.
    """
    values = histograms.values()
    with atomic_file(path) as pending:
        try:
            np.savez_compressed(
                pending,
                names=np.array(list(histograms)),
                counts=np.stack([h.counts for h in values]),
                spans=np.array([(h.reach, h.low, h.high) for h in values]),
                fed=counted,
            )
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; set AEROGAZE_CACHE elsewhere") from None
    files = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MAX_FILES]:
        file.unlink(missing_ok=True)
