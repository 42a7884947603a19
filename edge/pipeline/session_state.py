"""State that the threads of a session share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from edge.core.errors import InputError
from edge.core.frames import Frame, PreparedInput
from edge.core.run_status import Status
from edge.core.stage_times import StageTimes
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.bounded_queue import BoundedQueue
from edge.pipeline.frame_reader import FrameReader
from edge.postprocessing.result import Result

MAX_PREPARED_FRAMES = 4
"""Frames of a file that are prepared ahead."""
OPEN_TIMEOUT_S = 60.0
"""Time limit for opening the model and the source."""
Part = Literal["source", "engine", "sink"]


@dataclass(frozen=True)
class PreparedFrame:
    """A decoded frame with its graph input.

    Attributes:
        frame: The frame.
        tensor: Input of the graph.
        started_s: Time from which the latency counts (monotonic clock).
    """

    frame: Frame
    tensor: PreparedInput
    started_s: float


@dataclass(frozen=True)
class SessionFailure:
    """The part that ended a session early, and its error."""

    part: Part
    error: BaseException


@dataclass(frozen=True)
class RunContext:
    """Settings that all sessions of a run share.

    Attributes:
        deliver: Takes each result, in order.
        status: Status of the run.
        stop: Ends the run after the current result.
        max_frames: Number of frames after which the run ends.
        live: Run only the newest frame, count latency from its capture, and replace maps that are not finite
            for up to `stall_s`.
        stall_s: Time without progress after which a part has failed.
        times: How long each stage works.
    """

    deliver: Callable[[Result], None]
    status: Status
    stop: threading.Event
    max_frames: int | None
    live: bool
    stall_s: float
    times: StageTimes = field(default_factory=StageTimes)

    def count_dropped(self, frames: int) -> None:
        """Count frames that a live run did not run; a run over a file drops none before it ends."""
        if frames and self.live:
            self.status.count_dropped(frames)


class SessionState:
    """What the reading thread, the inference thread and the supervisor of a session share.

    Attributes:
        model: The model; None until the reading thread has opened it.
        reader: Reader of the source; None until the reading thread has opened it.
        failure: First failure; None if the source ended or enough frames were read.
        prepared: Frames on their way from the reading thread to the inference thread.
        is_abandoned: No more results are delivered, and both threads end as soon as they can.
        delivery_lock: Held while a result is delivered.
        done: Set when the inference thread ends.
    """

    def __init__(self, live: bool) -> None:
        self.model: SaliencyModel | None = None
        self.reader: FrameReader | None = None
        self.failure: SessionFailure | None = None
        self.prepared: BoundedQueue[PreparedFrame] = BoundedQueue(
            1 if live else MAX_PREPARED_FRAMES, drop_oldest=live
        )
        self.is_abandoned = False
        self.delivery_lock = threading.Lock()
        self.done = threading.Event()

    def fail(self, part: Part, error: BaseException) -> None:
        """Record a failure; the first one counts."""
        self.failure = self.failure or SessionFailure(part, error)


class Watchdog:
    """Detects that a source gives no frames or an engine gives no maps.

    The reading thread and the inference thread note their progress; the supervisor looks for stalls.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._opened_s: float | None = None
        self._last_read_s = time.monotonic()
        self._engine_call_s: float | None = None

    @property
    def opened_for_s(self) -> float:
        """Time since model and source were open; 0 if they never were."""
        return 0.0 if self._opened_s is None else time.monotonic() - self._opened_s

    def note_opened(self) -> None:
        """Note that model and source are open."""
        self._last_read_s = self._opened_s = time.monotonic()

    def note_frame(self, arrival_s: float) -> None:
        """Note that a frame has arrived."""
        self._last_read_s = arrival_s

    def engine_call_started(self) -> None:
        """Note that a call to the engine starts, which may hang."""
        self._engine_call_s = time.monotonic()

    def engine_call_ended(self) -> None:
        """Note that the call has returned."""
        self._engine_call_s = None

    def find_stall(self, state: SessionState, watch_source: bool) -> SessionFailure | None:
        """Return the part that has made no progress for too long.

        Args:
            state: State of the session.
            watch_source: Whether a source without frames counts. A slow source may take the time of three
                frames.
        """
        now = time.monotonic()
        engine_call_s = self._engine_call_s  # read once: the inference thread resets it
        if engine_call_s is not None and now - engine_call_s > self._stall_s:
            return SessionFailure("engine", InputError(f"no map for {now - engine_call_s:.1f} s"))
        waited_s = now - self._last_read_s
        if self._opened_s is None or state.reader is None:
            part: Part = "engine" if state.model is None else "source"
            is_late = waited_s > OPEN_TIMEOUT_S
            return (
                SessionFailure(part, InputError(f"not open after {OPEN_TIMEOUT_S:g} s")) if is_late else None
            )
        if watch_source and waited_s > max(self._stall_s, 3 / state.reader.source.fps):
            return SessionFailure("source", InputError(f"no frame for {waited_s:.1f} s"))
        return None
