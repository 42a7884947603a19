"""What a running pipeline knows of itself: written by the pipeline, read by whoever shows it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

RECENT = 300
"""Results whose latency and time are kept."""
QUIET_S = 5.0
"""How long all must be well before an episode is over: what comes and goes is one."""

LOG = logging.getLogger("aerogaze")
State = Literal["starting", "running", "stalled", "stopped"]


@dataclass(frozen=True)
class About:
    """What runs: a release's name, its precision, the engine's description, and the source's name."""

    release: str
    precision: str
    engine: str
    source: str


@dataclass(frozen=True)
class Snapshot:
    """A pipeline at one moment; times in seconds and milliseconds, counts since the start.

    `faults`: episodes by kind, as "source" or "sink:http"; `open_faults`: those that are not over, by kind.
    `latencies_ms`: of the last `RECENT` results, oldest first; `fps` over the same. `held`: results that
    repeat the last good map, since the engine gave none.
    """

    about: About
    state: State
    uptime_s: float
    frames: int
    dropped: int
    fps: float
    latencies_ms: tuple[float, ...]
    faults: dict[str, int] = field(default_factory=dict)
    open_faults: dict[str, str] = field(default_factory=dict)
    held: int = 0


class Status:
    """Counts frames, drops and faults; safe to use from any thread.

    A fault is logged once an episode, which is over when all was well for `quiet_s`.
    """

    def __init__(
        self, about: About, clock: Callable[[], float] = time.monotonic, quiet_s: float = QUIET_S
    ) -> None:
        self._about, self._clock, self._lock = about, clock, threading.Lock()
        self._quiet_s = quiet_s
        self._started = clock()
        self._state: State = "starting"
        self._frames = self._dropped = self._held = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._faults: Counter[str] = Counter()
        self._open: dict[str, str] = {}
        self._well_s: dict[str, float] = {}

    def runs_on(self, precision: str, engine: str) -> None:
        """Say what runs now: an engine that is opened again may be another one."""
        with self._lock:
            self._about = replace(self._about, precision=precision, engine=engine)

    def result(self, latency_ms: float) -> None:
        """Count a result."""
        with self._lock:
            self._frames += 1
            self._recent.append((self._clock(), latency_ms))

    def drop(self, frames: int = 1) -> None:
        """Count frames that were captured and never run."""
        with self._lock:
            self._dropped += frames

    def hold(self) -> None:
        """Count a result that repeats the last good map."""
        with self._lock:
            self._held += 1

    @property
    def state(self) -> State:
        """The pipeline's state."""
        return self._state

    def enter(self, state: State) -> None:
        """Change the pipeline's state."""
        with self._lock:
            self._state = state

    def fault(self, kind: str, message: str) -> None:
        """Open an episode of `kind`; while it is open, more of the same is neither logged nor counted."""
        with self._lock:
            new = kind not in self._open
            self._open[kind] = message
            self._faults[kind] += new
            self._well_s.pop(kind, None)
        if new:
            LOG.warning("%s: %s", kind, message)

    def recovered(self, kind: str) -> None:
        """Say that all is well with `kind`, as often as it is: so an open episode comes to its end."""
        with self._lock:
            if kind not in self._open:
                return
            now = self._clock()
            over = now - self._well_s.setdefault(kind, now) >= self._quiet_s
            if over:
                del self._open[kind], self._well_s[kind]
        if over:
            LOG.info("%s: recovered", kind)

    def snapshot(self) -> Snapshot:
        """Return how things stand."""
        with self._lock:
            times = [at for at, _ in self._recent]
            span = times[-1] - times[0] if len(times) > 1 else 0.0
            return Snapshot(
                self._about,
                self._state,
                self._clock() - self._started,
                self._frames,
                self._dropped,
                (len(times) - 1) / span if span > 0 else 0.0,
                tuple(latency for _, latency in self._recent),
                dict(self._faults),
                dict(self._open),
                self._held,
            )
