"""Frames in, results out: decoding, inference and output overlap, each on threads of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from edge.core.errors import CheckError, InputError
from edge.core.frames import Source
from edge.core.run_status import RunInfo, Status
from edge.inference.cuda.errors import CudaError
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.clock_monitor import ClockMonitor
from edge.pipeline.frame_reader import FrameReader, PrefetchingReader
from edge.pipeline.latency_reservoir import LatencyReservoir
from edge.pipeline.session import RunContext, Session, SessionFailure
from edge.pipeline.sink_worker import SinkWorker, format_error, unique_names
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink

TICK_S = 0.1
"""How often the run is looked after."""
CLOSE_S = 0.5
"""How long the end of a live session waits for its threads, and for each part to close: one may hang."""
WELL_S = 3.0
"""A session that has lasted as long was well: waits start over."""
MAX_HANGING_SESSIONS = 5
"""Sessions that may leave threads hanging in a driver or an engine: the process had better start anew."""


@dataclass(frozen=True)
class LiveSettings:
    """How a run goes on for hours: latest frames only, and what fails is opened again.

    A part that cannot be opened again ends the run when it fails. `stall_s`: a source or an engine that
    gives nothing for as long has failed. Waits between attempts double from `min_backoff_s` to
    `max_backoff_s`, and start over once a session has lasted longer than its wait, or `WELL_S`.
    """

    open_source: Callable[[], Source] | None = None
    open_model: Callable[[], SaliencyModel] | None = None
    stall_s: float = 1.5
    min_backoff_s: float = 0.5
    max_backoff_s: float = 10.0


@dataclass(frozen=True)
class RunSummary:
    """What a run did, in seconds from its start: the model is open by then. `fps` is frames / seconds.

    `dropped`: frames that were captured and never run; `held`: results that repeat the last good map; both of
    live runs. `faults`: episodes by kind. `failed`: sinks whose output is not whole, and why; `wrote`: those
    whose output is in its place, what was whole of it.
    """

    frames: int
    seconds: float
    fps: float
    first_map_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    interrupted: bool
    dropped: int
    held: int
    faults: dict[str, int]
    failed: tuple[str, ...]
    wrote: tuple[str, ...]


def run_pipeline(
    source: Source,
    model: SaliencyModel,
    sinks: Sequence[Sink],
    max_frames: int | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    stop: threading.Event | None = None,
    status: Status | None = None,
    live: LiveSettings | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> RunSummary:
    """Run the model over the source, each result in order to every sink.

    Sinks fail alone: the others go on. A file's run takes every frame, waits for slow sinks, and commits
    those that did not fail at the end; after an error of the source or the engine, or of all sinks, it
    discards them all. A live run takes the newest frame, waits for no sink, opens again what fails, and
    commits each sink whose output is whole, also where it gives up, unless it had no result; source and model
    are its own, and it closes them. Setting `stop` ends either early and keeps what was done. `on_tick` is
    called every `TICK_S`, on the caller's thread.

    Raises:
        InputError: from the source, all sinks of a file's run, or a map that is not finite; no frame at
            all, unless it was stopped before the first.
        CheckError: in a live run, drivers or engines hang again and again, or the GPU is lost: start the
            process anew.
    """
    run_info = RunInfo(model.release.name, model.precision, model.engine, source.name)
    status = status or Status(run_info)
    stop = stop or threading.Event()
    started, first_map_s = time.monotonic(), 0.0
    latencies = LatencyReservoir()
    lanes: list[SinkWorker] = []

    def deliver(result: Result) -> None:
        nonlocal first_map_s
        first_map_s = first_map_s or time.monotonic() - started
        status.set_state("running")
        status.count_result(result.latency_ms)
        latencies.add(result.latency_ms)
        errors = [lane.error for lane in lanes if lane.error is not None]
        if errors and len(errors) == len(lanes) and not live:
            raise errors[0]
        for lane in lanes:
            lane.put(result)
        on_result(result)

    plan = RunContext(
        deliver, status, stop, max_frames, live is not None, live.stall_s if live else float("inf")
    )
    supervisor = _Supervisor(plan, live or LiveSettings(), on_tick)
    try:
        names = unique_names([type(sink).__name__.removesuffix("Sink").lower() for sink in sinks])
        for sink, name in zip(sinks, names, strict=True):  # one by one: what was started is ended below
            lanes.append(SinkWorker(sink, name, status, live is not None))
        supervisor.run(source, model)
        status.set_state("stopped")  # before sinks end, of which some say so
        on_tick()  # sinks may take their time to end
        if not latencies.count and not stop.is_set():
            raise InputError(f"{source.name} gave no frame; expected at least one")
        for lane in lanes:
            lane.end()
        for lane in lanes:
            if latencies.count:
                lane.keep()
            else:
                lane.discard()
        errors = {lane.kind: lane.error for lane in lanes if lane.error is not None}
        if errors and len(errors) == len(lanes) and not live:
            raise next(iter(errors.values()))
    except BaseException:
        status.set_state("stopped")
        for lane in lanes:
            lane.end()
        recorded = live is not None and latencies.count > 0  # hours of it: nobody can record them again
        with ExitStack() as ends:  # each one, whatever another does
            for lane in lanes:
                ends.callback(lane.keep if recorded else lane.discard)
            for sink in sinks[len(lanes) :]:
                ends.callback(sink.discard)
        raise
    seconds = time.monotonic() - started
    seen = status.snapshot()
    return RunSummary(
        latencies.count,
        seconds,
        latencies.count / seconds,
        first_map_s,
        *latencies.quantiles(),
        stop.is_set(),
        seen.dropped,
        seen.held,
        seen.faults,
        tuple(f"{kind}: {format_error(error)}" for kind, error in errors.items()),
        tuple(lane.kind for lane in lanes if lane.wrote),
    )


class _Supervisor:
    """Runs session after session: one in a file's run; in a live one, as many as it takes."""

    def __init__(self, plan: RunContext, live: LiveSettings, on_tick: Callable[[], None]) -> None:
        self._plan, self._live, self._on_tick = plan, live, on_tick
        self._status, self._clock = plan.status, ClockMonitor(plan.status)
        self._hanging: list[Session] = []
        self._next = 0

    def run(self, source: Source, model: SaliencyModel) -> None:
        """Return at the source's end, or when asked to stop."""
        feed = FrameReader(source) if self._plan.live else PrefetchingReader(source)
        session = Session(self._plan, lambda: model, lambda: feed)
        wait_s = self._live.min_backoff_s
        try:
            while (failure := self._watched(session)) is not None:
                renewed = self._renewed(session, failure)
                if session.lasted_s > min(wait_s, WELL_S):
                    wait_s = self._live.min_backoff_s
                if not self._pause(wait_s):
                    return
                wait_s = min(2 * wait_s, self._live.max_backoff_s)
                session = Session(self._plan, *renewed)
        finally:
            feed.close()
            self._close(session)
            if self._plan.live:
                session.close_source(CLOSE_S)
                session.close_model(CLOSE_S)

    def _watched(self, session: Session) -> SessionFailure | None:
        """Return what the session failed by; None if it ended, or the run is to."""
        while not session.done.wait(TICK_S):
            self._look()
            if self._plan.stop.is_set():
                return None
            watch_source = self._live.open_source is not None
            if self._plan.live and (stalled := session.stalled(watch_source)) is not None:
                return stalled
        if session.failure is not None and not self._plan.live:
            raise session.failure.error
        return None if self._plan.stop.is_set() else session.failure

    def _renewed(
        self, session: Session, failure: SessionFailure
    ) -> tuple[Callable[[], SaliencyModel], Callable[[], FrameReader]]:
        """End a session that failed; return how the next one gets its model and its feed."""
        self._close(session)
        self._next = session.feed.next if session.feed else self._next
        if failure.part == "sink":
            raise failure.error
        self._status.report_fault(failure.part, str(failure.error) or type(failure.error).__name__)
        if isinstance(failure.error, CudaError) and failure.error.lost:
            raise CheckError(f"{failure.error}; this process has lost the GPU") from failure.error
        self._status.set_state("stalled")
        open_model, open_feed = session.open_model, session.open_feed
        if failure.part == "source" or session.hangs("source"):
            if self._live.open_source is None:
                raise failure.error
            open_source, first = self._live.open_source, self._next
            session.close_source(CLOSE_S)
            open_feed = lambda: FrameReader(open_source(), first)  # noqa: E731
        if failure.part == "engine" or session.hangs("engine"):
            if self._live.open_model is None:
                raise failure.error
            session.close_model(CLOSE_S)
            open_model = self._live.open_model
        self._hanging = [each for each in (*self._hanging, session) if each.leaves_threads()]
        if len(self._hanging) >= MAX_HANGING_SESSIONS:
            raise CheckError(
                f"{failure.part}: {failure.error}, {MAX_HANGING_SESSIONS} times: start aerogaze anew"
            )
        return open_model, open_feed

    def _close(self, session: Session) -> None:
        session.close(min(CLOSE_S, self._live.stall_s) if self._plan.live else None)

    def _pause(self, seconds: float) -> bool:
        """Wait; return False if the run is to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._plan.stop.wait(min(left, TICK_S)):
            self._look()
        return not self._plan.stop.is_set()

    def _look(self) -> None:
        self._clock.look()
        self._on_tick()
