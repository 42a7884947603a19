"""Playback of a source in real time: each frame comes when a camera would give it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from edge.core.frames import Frame, Source, find_damage


class PacedSource:
    """Frames of another source at their media time, stamped with the monotonic time when they were due.

    Each frame is given. A frame that is decoded too late is stamped when it is ready; a pipeline that keeps
    only the newest frames drops and counts what it cannot process in time.

    Args:
        source: The source.
        fps: Frame rate instead of the source's time stamps; None for its time stamps.
        now: Monotonic clock in seconds; another one in tests.
        wait: Waits for seconds and returns True if the source was closed meanwhile; another one in tests.
    """

    def __init__(
        self,
        source: Source,
        fps: float | None = None,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.name, self.width, self.height = source.name, source.width, source.height
        self.fps, self.length = source.fps, source.length
        self._source, self._fps, self._closed = source, fps, threading.Event()
        self._now, self._wait = now, wait or self._closed.wait

    @property
    def damage(self) -> tuple[str, ...]:
        """What the source could not read."""
        return find_damage(self._source)

    def __iter__(self) -> Iterator[Frame]:
        """Yield each frame when it is due; end early once closed."""
        start_s: float | None = None
        for frame in self._source:
            ready_s = self._now()
            media_s = frame.index / self._fps if self._fps else frame.capture_s
            start_s = ready_s - media_s if start_s is None else start_s
            due_s = start_s + media_s
            if due_s > ready_s and self._wait(due_s - ready_s):
                return
            yield replace(frame, capture_s=max(due_s, ready_s))

    def close(self) -> None:
        """Close the source."""
        self._closed.set()
        self._source.close()
