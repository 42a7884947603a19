"""Supervisor of a run: watches the current session and starts the next one after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.core.errors import CheckError
from edge.core.frames import Source
from edge.inference.cuda.errors import UNKNOWN, CudaError
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.clock_monitor import ClockMonitor
from edge.pipeline.frame_reader import FrameReader, PrefetchingReader
from edge.pipeline.session import Session
from edge.pipeline.session_state import RunContext, SessionFailure

TICK_INTERVAL_S = 0.1
"""Time between two checks of the run."""
CLOSE_TIMEOUT_S = 0.5
"""Time that the end of a live session waits for its threads, and for each part to close; one may hang."""
HEALTHY_SESSION_S = 3.0
"""A session that lasted this long was healthy: the back-off starts over."""
MAX_HANGING_SESSIONS = 5
"""Sessions that may leave threads hanging in a driver or an engine before the process has to restart."""
MAX_UNKNOWN_ERRORS = 3
"""Unknown errors of CUDA in one run before the process has to restart."""


@dataclass(frozen=True)
class LiveSettings:
    """Settings of a live run, which runs for hours and opens failed parts again.

    The back-off between attempts doubles from `min_backoff_s` to `max_backoff_s`. It starts over once a
    session has lasted longer than the back-off, or than `HEALTHY_SESSION_S`.

    Attributes:
        open_source: Opens the source again; None ends the run when the source fails.
        open_model: Opens the model again; None ends the run when the engine fails.
        stall_s: A source or an engine that gives nothing for this time has failed.
        min_backoff_s: Wait before the first attempt.
        max_backoff_s: Longest wait between two attempts.
    """

    open_source: Callable[[], Source] | None = None
    open_model: Callable[[], SaliencyModel] | None = None
    stall_s: float = 1.5
    min_backoff_s: float = 0.5
    max_backoff_s: float = 10.0


class Supervisor:
    """Runs one session for a file; for a live run, as many as it takes.

    Args:
        context: Settings of the run.
        live: Settings of a live run.
        on_tick: Called every `TICK_INTERVAL_S`.
    """

    def __init__(self, context: RunContext, live: LiveSettings, on_tick: Callable[[], None]) -> None:
        self._context, self._live, self._on_tick = context, live, on_tick
        self._status, self._clock_monitor = context.status, ClockMonitor(context.status)
        self._hanging: list[Session] = []
        self._next_index = 0
        self._unknown_errors = 0

    def run(self, source: Source, model: SaliencyModel) -> None:
        """Run until the source ends or the run is stopped.

        Raises:
            InputError: A part failed and cannot be opened again.
            CheckError: Threads hang again and again, or the GPU is lost.
        """
        times = self._context.times
        reader = FrameReader(source, times) if self._context.live else PrefetchingReader(source, times)
        session = Session(self._context, lambda: model, lambda: reader)
        backoff_s = self._live.min_backoff_s
        try:
            while (failure := self._watch(session)) is not None:
                open_model, open_reader = self._prepare_restart(session, failure)
                if session.opened_for_s > min(backoff_s, HEALTHY_SESSION_S):
                    backoff_s = self._live.min_backoff_s
                if not self._wait(backoff_s):
                    return
                backoff_s = min(2 * backoff_s, self._live.max_backoff_s)
                session = Session(self._context, open_model, open_reader)
        finally:
            reader.close()
            self._close(session)
            if self._context.live:
                session.close_source(CLOSE_TIMEOUT_S)
                session.close_model(CLOSE_TIMEOUT_S)

    def _watch(self, session: Session) -> SessionFailure | None:
        """Wait for the end of a session; return its failure, or None if the run is to end."""
        while not session.done.wait(TICK_INTERVAL_S):
            self._tick()
            if self._context.stop.is_set():
                return None
            watch_source = self._live.open_source is not None
            if self._context.live and (stall := session.find_stall(watch_source)) is not None:
                return stall
        if session.failure is not None and not self._context.live:
            raise session.failure.error
        return None if self._context.stop.is_set() else session.failure

    def _prepare_restart(
        self, session: Session, failure: SessionFailure
    ) -> tuple[Callable[[], SaliencyModel], Callable[[], FrameReader]]:
        """End a failed session; return the functions that open model and reader of the next one."""
        self._close(session)
        next_index = session.next_index
        self._next_index = self._next_index if next_index is None else next_index
        self._report(failure)
        open_model, open_reader = session.open_model, session.open_reader
        if failure.part == "source" or session.is_hanging("source"):
            open_reader = self._reopen_source(session, failure)
        if failure.part == "engine" or session.is_hanging("engine"):
            if self._live.open_model is None:
                raise failure.error
            session.close_model(CLOSE_TIMEOUT_S)
            open_model = self._live.open_model
        self._hanging = [each for each in (*self._hanging, session) if each.has_threads()]
        if len(self._hanging) >= MAX_HANGING_SESSIONS:
            raise CheckError(
                f"{failure.part}: {failure.error}, {MAX_HANGING_SESSIONS} times: restart aerogaze"
            )
        return open_model, open_reader

    def _report(self, failure: SessionFailure) -> None:
        """Report a failure as a fault; raise if no new session can help."""
        if failure.part == "sink":
            raise failure.error
        self._status.report_fault(failure.part, str(failure.error) or type(failure.error).__name__)
        if isinstance(failure.error, CudaError):
            self._unknown_errors += failure.error.name == UNKNOWN
            if failure.error.lost:
                raise CheckError(f"{failure.error}; this process has lost the GPU") from failure.error
            if self._unknown_errors >= MAX_UNKNOWN_ERRORS:
                raise CheckError(
                    f"{failure.error}, {MAX_UNKNOWN_ERRORS} times; this process has lost the GPU"
                ) from failure.error
        self._status.set_state("stalled")

    def _reopen_source(self, session: Session, failure: SessionFailure) -> Callable[[], FrameReader]:
        open_source, first_index = self._live.open_source, self._next_index
        if open_source is None:
            raise failure.error
        session.close_source(CLOSE_TIMEOUT_S)
        return lambda: FrameReader(open_source(), self._context.times, first_index)

    def _close(self, session: Session) -> None:
        session.close(min(CLOSE_TIMEOUT_S, self._live.stall_s) if self._context.live else None)

    def _wait(self, seconds: float) -> bool:
        """Wait; return False if the run is to end."""
        stop = self._context.stop
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 and not stop.wait(min(left_s, TICK_INTERVAL_S)):
            self._tick()
        return not stop.is_set()

    def _tick(self) -> None:
        self._clock_monitor.check()
        self._on_tick()
