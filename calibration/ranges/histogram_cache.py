"""Histograms on disk, by content: what was counted once, or half of it, is not counted again."""

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
"""Files at most; the longest unused go."""
_SCHEMA = 2


def cache_key(*parts: bytes | str) -> str:
    """Return the hash of what histograms are made from."""
    digest = hashlib.sha256(f"{_SCHEMA} {BINS}".encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def load_histograms(path: Path) -> tuple[int, dict[str, Histogram]]:
    """Return how many feeds were counted, and their histograms; 0 and none where there is no sound file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names, counts, spans = file["names"].tolist(), file["counts"], file["spans"]
            fed = int(file["fed"])
        if counts.shape != (len(names), 2 * BINS) or spans.shape != (len(names), 3) or fed < 1:
            return 0, {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return 0, {}
    histograms = {}
    for name, row, (reach, low, high) in zip(names, counts, spans.tolist(), strict=True):
        histogram = histograms[name] = Histogram()
        histogram.counts, histogram.reach = row.astype(np.int64), reach
        histogram.low, histogram.high = low, high
    return fed, histograms


def save_histograms(path: Path, fed: int, histograms: Mapping[str, Histogram]) -> None:
    """Keep the histograms of so many feeds.

    Raises:
        InputError: they cannot be written.
    """
    values = histograms.values()
    with atomic_file(path) as pending:
        try:
            np.savez_compressed(
                pending,
                names=np.array(list(histograms)),
                counts=np.stack([h.counts for h in values]),
                spans=np.array([(h.reach, h.low, h.high) for h in values]),
                fed=fed,
            )
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; set AEROGAZE_CACHE elsewhere") from None
    files = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime)
    for file in files[:-MAX_FILES]:
        file.unlink(missing_ok=True)
