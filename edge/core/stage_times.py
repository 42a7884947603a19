"""Working time of each stage of a run, and the stage that limits the rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

BUSY_SHARE = 0.7
"""A stage that works at least this share of the time limits the rate of a run."""
SOURCE, PREPARE, ENGINE = "source", "prepare", "engine"
DECODE = "decode"


class StageTimes:
    """Total working time of each stage of a run. Each stage has a thread of its own.

    The stages are "decode" (for a live run "source", which also waits for the next frame), "prepare",
    "engine", and "sink:NAME" for each sink. The times are wall-clock times: on a machine with too few cores,
    they include the time that a stage waits for a core.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._frames: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, stage: str, frames: int = 1) -> Iterator[None]:
        """Add the duration of the block to a stage, and the frames that it has worked on."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.add(stage, time.monotonic() - started_s, frames)

    def add(self, stage: str, seconds: float, frames: int) -> None:
        """Add seconds and frames to a stage."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
            self._frames[stage] = self._frames.get(stage, 0) + frames

    def mean_ms(self, stage: str) -> float:
        """Return how long a stage works on a frame, in milliseconds."""
        with self._lock:
            return 1e3 * self._seconds.get(stage, 0.0) / max(1, self._frames.get(stage, 0))

    def busy_shares(self, duration_s: float) -> dict[str, float]:
        """Return the share (0 to 1) of a duration that each stage has worked, the busiest first."""
        with self._lock:
            shares = {stage: min(1.0, seconds / duration_s) for stage, seconds in self._seconds.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))


def limiting_stage(busy_shares: dict[str, float], live: bool) -> str | None:
    """Return the stage that limits the rate of a run; None if no stage works most of the time.

    A live run waits for no sink, and its source waits for frames: the source limits the rate unless preparing
    or the engine takes all of the time.

    Args:
        busy_shares: Share of the time that each stage works, the busiest first.
        live: Whether the run is live.
    """
    stages = [PREPARE, ENGINE] if live else list(busy_shares)
    busy = [stage for stage in busy_shares if stage in stages and busy_shares[stage] >= BUSY_SHARE]
    return busy[0] if busy else SOURCE if live and busy_shares.get(SOURCE, 0.0) >= BUSY_SHARE else None
