"""A file in real time: its frames come when a camera would give them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from edge.core.frames import Frame, Source


class PacedSource:
    """Another source's frames at their media time, each stamped with the monotonic time it was due.

    `fps`: so many a second instead, evenly. A frame that is decoded too late is stamped when it is ready.
    Every frame is given: what cannot be run in time is dropped, and counted, where newest frames win.
    """

    def __init__(self, source: Source, fps: float | None = None) -> None:
        self.name, self.width, self.height = source.name, source.width, source.height
        self.fps, self.length = source.fps, source.length
        self._source, self._even_fps, self._closed = source, fps, threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Yield each frame when it is due; end early once closed."""
        start: float | None = None
        for frame in self._source:
            ready = time.monotonic()
            at = frame.index / self._even_fps if self._even_fps else frame.capture_s
            start = ready - at if start is None else start
            due = start + at
            if due > ready and self._closed.wait(due - ready):
                return
            yield replace(frame, capture_s=max(due, ready))

    def close(self) -> None:
        """Close the source."""
        self._closed.set()
        self._source.close()
