"""Inference thread of a session: runs prepared frames and delivers their maps."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from edge.core.errors import InputError
from edge.core.frames import Tensor
from edge.core.stage_times import ENGINE
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.session_state import PreparedFrame, RunContext, SessionState, Watchdog
from edge.postprocessing.result import Result


class InferenceLoop:
    """Runs the model on prepared frames and delivers the results in order.

    Args:
        context: Settings of the run.
        state: State of the session.
        watchdog: Records the calls to the engine.
    """

    def __init__(self, context: RunContext, state: SessionState, watchdog: Watchdog) -> None:
        self._context, self._state, self._watchdog = context, state, watchdog
        self._undelivered: deque[PreparedFrame] = deque()
        self._collected = 0
        self._last_valid_map: Tensor | None = None
        self._invalid_since_s: float | None = None

    def run(self) -> None:
        """Run frames until the queue ends or the session is to end.

        Of a file, as many frames are in flight as the engine takes and are ready. A live run has one in
        flight: a second one would be older, when its map comes, than the frame that is read meanwhile.
        """
        last_frame, in_flight = None, 0
        try:
            while not self._is_ending:
                if (prepared := self._state.prepared.get(wait=not in_flight)) is not None:
                    last_frame, in_flight = prepared, in_flight + 1
                    self._undelivered.append(prepared)
                    self._submit(prepared)
                elif not in_flight:
                    break
                if prepared is None or self._context.live or in_flight == self._model.depth:
                    in_flight -= 1
                    self._collect()
            while self._undelivered and last_frame and not self._is_ending:
                self._submit(last_frame)  # at the end of a clip, the last frame is its own successor
                self._collect()
        except BaseException as error:  # also SystemExit, which would silently end this thread only
            self._state.fail("engine", error)
        finally:
            self._context.count_dropped(len(self._undelivered))
            self._state.done.set()

    @property
    def _is_ending(self) -> bool:
        return self._context.stop.is_set() or self._state.is_abandoned

    @property
    def _model(self) -> SaliencyModel:
        assert self._state.model is not None  # it is opened before the first frame is read
        return self._state.model

    def _submit(self, prepared: PreparedFrame) -> None:
        self._watchdog.engine_call_started()
        with self._context.times.measure(ENGINE):
            self._model.submit(prepared.tensor)
        self._watchdog.engine_call_ended()

    def _collect(self) -> None:
        """Deliver the next map, which belongs to the oldest undelivered frame.

        The first maps of a student with a delay belong to no frame.
        """
        self._watchdog.engine_call_started()
        with self._context.times.measure(ENGINE, frames=0):  # counted by `_submit`
            saliency = self._model.collect()
        now = time.monotonic()
        self._watchdog.engine_call_ended()
        self._collected += 1
        if self._collected <= self._model.delay_frames:
            return
        valid_map = self._validate(saliency, self._undelivered[0].frame.index)
        with self._state.delivery_lock:
            prepared = self._undelivered.popleft()
            if valid_map is None or self._state.is_abandoned:
                self._context.count_dropped(1)
                return
            try:
                latency_ms = (now - prepared.started_s) * 1e3
                self._context.deliver(Result(prepared.frame, valid_map, latency_ms))
            except BaseException as error:
                self._state.fail("sink", error)
                self._state.is_abandoned = True

    def _validate(self, saliency: Tensor, index: int) -> Tensor | None:
        """Return a map if it is finite; in a live run, otherwise the last finite map, if any.

        Raises:
            InputError: The map is not finite: of a file at once, live after `stall_s`.
        """
        status = self._context.status
        if np.isfinite(saliency).all():
            if self._context.live:
                status.report_recovery("engine")
            self._last_valid_map, self._invalid_since_s = saliency, None
            return saliency
        now = time.monotonic()
        message = f"the map of frame {index} is not finite: the release or its engine is broken"
        if not self._context.live:
            raise InputError(message)
        status.report_fault("engine", message)
        # Counted from the first invalid map, not from the last valid one: the source may have a gap.
        self._invalid_since_s = now if self._invalid_since_s is None else self._invalid_since_s
        if now - self._invalid_since_s > self._context.stall_s:
            raise InputError(f"no finite map for {now - self._invalid_since_s:.1f} s")
        self._reset_model()
        if self._last_valid_map is not None:
            status.count_held()
        return self._last_valid_map

    def _reset_model(self) -> None:
        """Clear the recurrent state, which may be NaN, too."""
        reader = self._state.reader
        self._watchdog.engine_call_started()  # a broken engine can hang in this call, too
        self._model.reset(reader.source.fps if reader else 1.0)
        self._watchdog.engine_call_ended()
