"""Session: one opened source through one opened model, until one of them ends or fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edge.core.errors import HangError
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.frame_preparer import FramePreparer
from edge.pipeline.frame_reader import FrameReader
from edge.pipeline.inference_loop import InferenceLoop
from edge.pipeline.session_state import Part, RunContext, SessionFailure, SessionState, Watchdog


class Session:
    """Two threads: one opens, reads and prepares, the other one infers and delivers.

    Both may hang in a driver. They are daemon threads, so they never keep the process alive.

    Args:
        context: Settings of the run.
        open_model: Opens the model; called on the reading thread.
        open_reader: Opens the source; called on the reading thread.
    """

    def __init__(
        self,
        context: RunContext,
        open_model: Callable[[], SaliencyModel],
        open_reader: Callable[[], FrameReader],
    ) -> None:
        self._context, self._open_model, self._open_reader = context, open_model, open_reader
        self._state = state = SessionState(context.live)
        self._watchdog = watchdog = Watchdog(context.stall_s)
        self._closers: dict[Part, threading.Thread] = {}
        preparer = FramePreparer(context, state, watchdog, open_model, open_reader)
        inference = InferenceLoop(context, state, watchdog)
        self._reading_thread = _start_thread("aerogaze-reader", preparer.run)
        self._inference_thread = _start_thread("aerogaze-engine", inference.run)

    @property
    def done(self) -> threading.Event:
        """Event that is set when the inference thread ends."""
        return self._state.done

    @property
    def failure(self) -> SessionFailure | None:
        """The failure that ended the session; None if the source ended or enough frames were read."""
        return self._state.failure

    @property
    def next_index(self) -> int | None:
        """Index that the next frame should have; None if the source was never open."""
        return self._state.reader.next_index if self._state.reader else None

    @property
    def opened_for_s(self) -> float:
        """Time since model and source were open; 0 if they never were."""
        return self._watchdog.opened_for_s

    @property
    def open_model(self) -> Callable[[], SaliencyModel]:
        """Function that gives the next session its model if it works: this one's, once it is open."""
        model = self._state.model
        return self._open_model if model is None else lambda: model

    @property
    def open_reader(self) -> Callable[[], FrameReader]:
        """Function that gives the next session its reader if it works: this one's, once it is open."""
        reader = self._state.reader
        return self._open_reader if reader is None else lambda: reader

    def find_stall(self, watch_source: bool) -> SessionFailure | None:
        """Return the part that has made no progress for too long; see `Watchdog.find_stall`."""
        return self._watchdog.find_stall(self._state, watch_source)

    def close(self, wait_s: float | None = None) -> None:
        """Deliver no more results and wait for both threads.

        Args:
            wait_s: Maximum time to wait, as a thread may hang; None waits without limit.
        """
        state = self._state
        if wait_s is not None:
            # After this, no delivery is in progress. Without a time limit, a delivery may wait for a slow
            # sink and hold the lock as long.
            with state.delivery_lock:
                state.is_abandoned = True
        state.is_abandoned = True
        self._context.count_dropped(state.prepared.abort())
        deadline_s = None if wait_s is None else time.monotonic() + wait_s
        for thread in (self._reading_thread, self._inference_thread):
            thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))

    def is_hanging(self, part: Part) -> bool:
        """Return whether a part's thread still runs after `close`."""
        return (self._reading_thread if part == "source" else self._inference_thread).is_alive()

    def has_threads(self) -> bool:
        """Return whether any thread still runs after `close`, also one that opens or closes a part."""
        threads = [self._reading_thread, self._inference_thread, *self._closers.values()]
        if self.failure is not None and isinstance(self.failure.error, HangError):
            threads.append(self.failure.error.thread)
        return any(thread.is_alive() for thread in threads)

    def close_source(self, wait_s: float) -> None:
        """Close the source once, as soon as no thread reads it; wait at most `wait_s`."""

        def close() -> None:
            if self._state.reader:
                self._state.reader.source.close()

        self._close_after("source", [self._reading_thread], close, wait_s)

    def close_model(self, wait_s: float) -> None:
        """Close the model once, as soon as no thread uses it; wait at most `wait_s`."""

        def close() -> None:
            if self._state.model:
                self._state.model.close()

        self._close_after("engine", [self._reading_thread, self._inference_thread], close, wait_s)

    def _close_after(
        self, part: Part, users: Sequence[threading.Thread], close: Callable[[], None], wait_s: float
    ) -> None:
        """Close a part on a thread of its own, because closing may hang, too."""
        if part in self._closers:
            return

        def close_when_unused() -> None:
            for user in users:
                user.join()
            try:
                close()
            except Exception as error:
                self._context.status.report_fault(part, f"cannot be closed: {error}")

        self._closers[part] = closer = _start_thread("aerogaze-closer", close_when_unused)
        if not any(user.is_alive() for user in users):
            closer.join(wait_s)


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread: it may hang in a driver, and the process must not wait for it."""
    thread = threading.Thread(name=name, target=target, daemon=True)
    thread.start()
    return thread
