"""JSON lines: one object a frame."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from edge.files import PendingFile, writing
from edge.sinks import Result


class JsonlSink:
    """Writes `frame`, `capture_s`, `latency_ms` and `peaks` (x, y in pixels of the frame, score).

    Raises:
        InputError: the file cannot be made; later: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._pending = PendingFile(path)
        self._file = self._pending.path.open("wb", buffering=0)
        self._whole = 0

    def write(self, result: Result) -> None:
        """Append one line."""
        height, width = result.frame.height, result.frame.width
        row = {
            "frame": result.frame.index,
            "capture_s": round(result.frame.capture_s, 6),
            "latency_ms": round(result.latency_ms, 3),
            "peaks": [
                {
                    "x": round(p.x * width, 1),
                    "y": round(p.y * height, 1),
                    "score": round(p.score, 4),
                }
                for p in result.peaks
            ],
        }
        line = f"{json.dumps(row)}\n".encode()
        with writing(self._pending.target):
            while line:
                line = line[self._file.write(line) :]  # a disk that gets full takes a part
        self._whole = self._file.tell()

    def finish(self) -> None:
        """Close the file, without the part of a line that a full disk took."""
        with writing(self._pending.target):
            self._file.truncate(self._whole)
            self._file.close()

    def commit(self) -> None:
        """Put the file in its place."""
        self._pending.commit()

    def discard(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._pending.discard()
