"""Status of a running pipeline: written by the pipeline, read by the sinks that publish it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

RECENT_RESULTS = 300
"""Number of latest results whose latency and time are kept."""
RECOVERY_S = 5.0
"""Seconds without a new fault after which a fault counts as over; intermittent faults count as one."""

LOG = logging.getLogger("aerogaze")
State = Literal["starting", "running", "stalled", "stopped"]


@dataclass(frozen=True)
class RunInfo:
    """Description of what runs.

    Attributes:
        release: Name of the release.
        precision: Precision of its graph.
        engine: Description of the inference engine.
        source: Name of the source of frames.
    """

    release: str
    precision: str
    engine: str
    source: str


@dataclass(frozen=True)
class StatusSnapshot:
    """State of a pipeline at one moment; counts are since the start.

    Attributes:
        run_info: What runs.
        state: State of the pipeline.
        uptime_s: Seconds since the start.
        frames: Number of results.
        dropped: Number of captured frames that were not run.
        fps: Results per second over the last `RECENT_RESULTS` results.
        latencies_ms: Latencies of the last `RECENT_RESULTS` results in milliseconds, oldest first.
        faults: Number of fault episodes by kind, such as "source" or "sink:http".
        open_faults: Latest message of each fault that is not over, by kind.
        held: Number of results that repeat the last valid map because the engine gave none.
    """

    run_info: RunInfo
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
    """Thread-safe counts of frames, drops and faults.

    A fault starts an episode, which is logged once. The episode ends after `recovery_s` seconds without a
    fault of that kind.

    Args:
        run_info: What runs.
        clock: Monotonic clock, in seconds.
        recovery_s: Seconds without a fault after which an episode ends.
        camera: Name of the camera in a run with several; empty for a run with one.

    Attributes:
        camera: The same.
    """

    def __init__(
        self,
        run_info: RunInfo,
        clock: Callable[[], float] = time.monotonic,
        recovery_s: float = RECOVERY_S,
        camera: str = "",
    ) -> None:
        self.camera = camera
        self._run_info, self._clock, self._lock = run_info, clock, threading.Lock()
        self._recovery_s = recovery_s
        self._started = clock()
        self._state: State = "starting"
        self._frames = self._dropped = self._held = 0
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_RESULTS)
        self._faults: Counter[str] = Counter()
        self._open_faults: dict[str, str] = {}
        self._well_since: dict[str, float] = {}

    def set_engine(self, precision: str, engine: str) -> None:
        """Update the precision and the engine, which can change when the engine is opened again."""
        with self._lock:
            self._run_info = replace(self._run_info, precision=precision, engine=engine)

    def count_result(self, latency_ms: float) -> None:
        """Count a result."""
        with self._lock:
            self._frames += 1
            self._recent.append((self._clock(), latency_ms))

    def count_dropped(self, frames: int = 1) -> None:
        """Count frames that were captured and not run."""
        with self._lock:
            self._dropped += frames

    def count_held(self) -> None:
        """Count a result that repeats the last valid map."""
        with self._lock:
            self._held += 1

    @property
    def state(self) -> State:
        """The pipeline's state."""
        return self._state

    def set_state(self, state: State) -> None:
        """Change the pipeline's state."""
        with self._lock:
            self._state = state

    def report_fault(self, kind: str, message: str) -> None:
        """Start an episode of `kind`; during an episode, further faults are neither logged nor counted."""
        with self._lock:
            is_new = kind not in self._open_faults
            self._open_faults[kind] = message
            self._faults[kind] += is_new
            self._well_since.pop(kind, None)
        if is_new:
            self._log(logging.WARNING, kind, message)

    def report_recovery(self, kind: str) -> None:
        """Report that `kind` works; an episode ends if it has worked for `recovery_s` seconds.

        Call this on every success, also when no episode is open.
        """
        with self._lock:
            if kind not in self._open_faults:
                return
            now = self._clock()
            is_over = now - self._well_since.setdefault(kind, now) >= self._recovery_s
            if is_over:
                del self._open_faults[kind], self._well_since[kind]
        if is_over:
            self._log(logging.INFO, kind, "recovered")

    def _log(self, level: int, kind: str, text: str) -> None:
        camera = {"camera": self.camera} if self.camera else {}
        prefix = f"{self.camera}: " if self.camera else ""
        LOG.log(level, "%s%s: %s", prefix, kind, text, extra={"kind": kind, "text": text, **camera})

    def snapshot(self) -> StatusSnapshot:
        """Return the current counts and faults."""
        with self._lock:
            times = [time_s for time_s, _ in self._recent]
            span = times[-1] - times[0] if len(times) > 1 else 0.0
            return StatusSnapshot(
                run_info=self._run_info,
                state=self._state,
                uptime_s=self._clock() - self._started,
                frames=self._frames,
                dropped=self._dropped,
                fps=(len(times) - 1) / span if span > 0 else 0.0,
                latencies_ms=tuple(latency for _, latency in self._recent),
                faults=dict(self._faults),
                open_faults=dict(self._open_faults),
                held=self._held,
            )
