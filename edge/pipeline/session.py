"""One opened source through one opened model, until one of them ends or fails."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge.core.errors import HangError, InputError
from edge.core.frames import Frame, GraphInput, Tensor
from edge.core.run_status import Status
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.bounded_queue import BoundedQueue
from edge.pipeline.frame_reader import FrameReader
from edge.postprocessing.result import Result

AHEAD = 4
"""Frames of a file prepared ahead."""
OPEN_S = 60.0
"""How long opening a model and a source may take."""
Part = Literal["source", "engine", "sink"]


@dataclass(frozen=True)
class PreparedFrame:
    """A decoded frame with the student's input made from it, and since when its latency counts."""

    frame: Frame
    tensor: GraphInput
    since_s: float


@dataclass(frozen=True)
class SessionFailure:
    """What ended a session before its time."""

    part: Part
    error: BaseException


@dataclass(frozen=True)
class RunContext:
    """What the sessions of a run have in common.

    `deliver` takes each result, in order. `live`: of the frames only the newest, latency from the capture,
    and no map that is not finite ends it before `stall_s`. `stop`: end after the result at hand.
    """

    deliver: Callable[[Result], None]
    status: Status
    stop: threading.Event
    max_frames: int | None
    live: bool
    stall_s: float


class Session:
    """A thread opens, reads and prepares; another infers and delivers.

    `open_model` and `open_feed` are called on the reading thread, which may hang in them. `failure` is None
    where the source ended, or enough frames were read.
    """

    def __init__(
        self, plan: RunContext, open_model: Callable[[], SaliencyModel], open_feed: Callable[[], FrameReader]
    ) -> None:
        self._plan, self._open_model, self._open_feed = plan, open_model, open_feed
        self.model: SaliencyModel | None = None
        self.feed: FrameReader | None = None
        self.failure: SessionFailure | None = None
        self.done = threading.Event()
        self._slot: BoundedQueue[PreparedFrame] = BoundedQueue(1 if plan.live else AHEAD, newest=plan.live)
        self._abandoned, self._delivering = False, threading.Lock()
        self._closers: dict[Part, threading.Thread] = {}
        self._good: Tensor | None = None
        self._opened_s: float | None = None
        self._reading_s = time.monotonic()
        self._bad_s: float | None = None
        self._refused_s: float | None = None
        self._inferring_s: float | None = None
        self._collected = 0
        self._reader = _thread("aerogaze-reader", self._read)
        self._engine = _thread("aerogaze-engine", self._infer)

    @property
    def open_model(self) -> Callable[[], SaliencyModel]:
        """How a session after this one gets its model, if that is sound: this one's, once it is open."""
        model = self.model
        return self._open_model if model is None else lambda: model

    @property
    def open_feed(self) -> Callable[[], FrameReader]:
        """How a session after this one gets its feed, if that is sound."""
        feed = self.feed
        return self._open_feed if feed is None else lambda: feed

    @property
    def lasted_s(self) -> float:
        """How long ago everything was open; 0 if it never was."""
        return 0.0 if self._opened_s is None else time.monotonic() - self._opened_s

    def stalled(self, watch_source: bool) -> SessionFailure | None:
        """Say what has not moved for too long: the engine, or the source (a slow one has three frames)."""
        now, limit = time.monotonic(), self._plan.stall_s
        since = self._inferring_s
        if since is not None and now - since > limit:
            return SessionFailure("engine", InputError(f"no map for {now - since:.1f} s"))
        waited = now - self._reading_s
        if self._opened_s is None or self.feed is None:
            part: Part = "engine" if self.model is None else "source"
            return (
                SessionFailure(part, InputError(f"not open after {OPEN_S:g} s")) if waited > OPEN_S else None
            )
        if watch_source and waited > max(limit, 3 / self.feed.source.fps):
            return SessionFailure("source", InputError(f"no frame for {waited:.1f} s"))
        return None

    def close(self, wait_s: float | None = None) -> None:
        """Deliver nothing more, and wait for both threads to end, at most `wait_s`: one may hang."""
        if wait_s is not None:  # where results may wait for a sink, the lock would wait with them
            with self._delivering:
                self._abandoned = True
        self._abandoned = True
        self._lose(self._slot.close())
        end = None if wait_s is None else time.monotonic() + wait_s
        for thread in (self._reader, self._engine):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def hangs(self, part: Part) -> bool:
        """Say whether a thread is still at work after `close`."""
        return (self._reader if part == "source" else self._engine).is_alive()

    def leaves_threads(self) -> bool:
        """Say whether any thread is still at work after `close`, one that opens or closes a part too."""
        threads = [self._reader, self._engine, *self._closers.values()]
        if self.failure is not None and isinstance(self.failure.error, HangError):
            threads.append(self.failure.error.thread)
        return any(thread.is_alive() for thread in threads)

    def close_source(self, wait_s: float) -> None:
        """Close the source, now or as soon as nobody reads it; once, and wait at most `wait_s`."""
        self._close_after(
            "source", [self._reader], lambda: self.feed.source.close() if self.feed else None, wait_s
        )

    def close_model(self, wait_s: float) -> None:
        """Close the model, now or as soon as nobody uses it; once, and wait at most `wait_s`."""
        users = [self._reader, self._engine]
        self._close_after("engine", users, lambda: self.model.close() if self.model else None, wait_s)

    def _close_after(
        self, part: Part, users: Sequence[threading.Thread], close: Callable[[], None], wait_s: float
    ) -> None:
        """Close on a thread of its own, since closing may hang too."""
        if part in self._closers:
            return

        def work() -> None:
            for user in users:
                user.join()
            try:
                close()
            except Exception as error:
                self._plan.status.report_fault(part, f"does not close: {error}")

        self._closers[part] = closer = _thread("aerogaze-closer", work)
        if not any(user.is_alive() for user in users):
            closer.join(wait_s)

    def _fail(self, part: Part, error: BaseException) -> None:
        self.failure = self.failure or SessionFailure(part, error)

    def _lose(self, frames: int) -> None:
        if frames and self._plan.live:
            self._plan.status.count_dropped(frames)

    def _read(self) -> None:
        part: Part = "engine"
        most = self._plan.max_frames
        try:
            self.model = model = self._open_model()
            self._plan.status.set_engine(model.precision, model.engine)
            part = "source"
            self.feed = feed = self._open_feed()
            model.reset(feed.source.fps)
            self._reading_s = self._opened_s = time.monotonic()
            while not self._abandoned and (frame := feed.read()) is not None:
                self._reading_s = now = feed.came_s
                if most is not None and frame.index >= most:
                    break
                checked = feed.checked(frame, self._plan.status) if self._plan.live else frame
                if checked is not None:
                    self._pass_on(model, checked, now)
        except BaseException as error:
            self._fail(part, error)
        finally:
            self._slot.end()

    def _pass_on(self, model: SaliencyModel, frame: Frame, now: float) -> None:
        try:
            tensor = model.prepare(frame.image)
        except Exception as error:  # as of a graph that takes frames of one size
            if not self._plan.live:
                raise
            self._refuse(now, error)
            return
        if self._plan.live:
            self._plan.status.report_recovery("frame")
            self._refused_s = None
        dropped = self._slot.put(PreparedFrame(frame, tensor, frame.capture_s if self._plan.live else now))
        self._lose(1 if dropped is None else dropped)

    def _refuse(self, now: float, error: Exception) -> None:
        """Count a frame that the graph does not take; where none is taken, the run stands still."""
        self._plan.status.report_fault("frame", str(error))
        self._lose(1)
        self._refused_s = now if self._refused_s is None else self._refused_s
        if now - self._refused_s > self._plan.stall_s:
            self._plan.status.set_state("stalled")

    def _infer(self) -> None:
        """Keep as many frames in flight as the engine takes, if so many are ready; live, one: the newest.

        A second one in flight would be older when its map comes than the one that is read meanwhile.
        """
        waiting: deque[PreparedFrame] = deque()  # frames whose maps were not yet delivered
        last, flying = None, 0
        try:
            while not self._ended:
                if (prepared := self._slot.get(wait=not flying)) is not None:
                    last, flying = prepared, flying + 1
                    waiting.append(prepared)
                    self._submit(prepared)
                elif not flying:
                    break
                if prepared is None or self._plan.live or flying == self._opened.depth:
                    flying -= 1
                    self._collect(waiting)
            while waiting and last and not self._ended:
                self._submit(last)  # at a clip's end the last frame is its own successor
                self._collect(waiting)
        except BaseException as error:  # SystemExit too: it would end this thread alone
            self._fail("engine", error)
        finally:
            self._lose(len(waiting))
            self.done.set()

    @property
    def _ended(self) -> bool:
        return self._plan.stop.is_set() or self._abandoned

    @property
    def _opened(self) -> SaliencyModel:
        assert self.model is not None  # frames come after it
        return self.model

    def _submit(self, prepared: PreparedFrame) -> None:
        self._inferring_s = time.monotonic()
        self._opened.submit(prepared.tensor)
        self._inferring_s = None

    def _collect(self, waiting: deque[PreparedFrame]) -> None:
        """Deliver the next map, of the oldest frame that waits; a delayed student's first are of none."""
        self._inferring_s = time.monotonic()
        saliency = self._opened.collect()
        now = time.monotonic()
        self._inferring_s = None
        self._collected += 1
        if self._collected <= self._opened.release.delay_frames:
            return
        found = self._sound(self._opened, saliency, waiting[0].frame.index)
        with self._delivering:
            at = waiting.popleft()
            if found is None or self._abandoned:
                self._lose(1)
                return
            try:
                self._plan.deliver(Result(at.frame, found, (now - at.since_s) * 1e3))
            except BaseException as error:
                self._fail("sink", error)
                self._abandoned = True

    def _sound(self, model: SaliencyModel, saliency: Tensor, index: int) -> Tensor | None:
        """Return a map; live, in place of one that is not finite, the last good one."""
        now, status = time.monotonic(), self._plan.status
        if np.isfinite(saliency).all():
            if self._plan.live:
                status.report_recovery("engine")
            self._good, self._bad_s = saliency, None
            return saliency
        told = f"the map of frame {index} is not finite: the release or its engine is broken"
        if not self._plan.live:
            raise InputError(told)
        status.report_fault("engine", told)
        self._bad_s = now if self._bad_s is None else self._bad_s  # not since the last good: frames may lack
        if now - self._bad_s > self._plan.stall_s:
            raise InputError(f"no finite map for {now - self._bad_s:.1f} s")
        self._inferring_s = time.monotonic()  # a broken engine may hang in this, too
        model.reset(self.feed.source.fps if self.feed else 1.0)  # what it carries may be NaN too
        self._inferring_s = None
        if self._good is not None:
            status.count_held()
        return self._good


def _thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that the process does not wait for: it may hang in a driver."""
    thread = threading.Thread(name=name, target=work, daemon=True)
    thread.start()
    return thread
