"""Threads and queues of the sinks, so that no sink waits for another one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack

from edge.core.errors import ClosedPipeError, InputError
from edge.core.run_status import Status
from edge.core.stage_times import StageTimes
from edge.pipeline.bounded_queue import BoundedQueue
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink

QUEUE_SIZE = 4
"""Results that wait for a sink: enough to overlap, few enough to save memory."""
END_TIMEOUT_S = 5.0
"""Time that the end of a live run waits for a sink that is still writing."""


class SinkWorker:
    """Thread and queue of one sink.

    Errors affect only their sink and are reported as faults of kind `sink:NAME`. In a run over a file, a
    slow sink slows the run down, and a failed one gets no more results and is discarded. In a live run, a
    slow sink loses its oldest results. There, InputError means that the sink cannot continue, for example
    because the disk is full: it gets no more results. Any other error, such as a lost connection, costs one
    result.

    Args:
        sink: The sink.
        name: Name of the sink.
        status: Status of the run.
        times: Times of the run, which get the time that the sink works.
        live: Whether the run is live.

    Attributes:
        fault_kind: Kind of the faults of this sink.
        error: Error that ended the sink; None if there was none.
        is_committed: The output is at its final path.
    """

    def __init__(self, sink: Sink, name: str, status: Status, times: StageTimes, live: bool) -> None:
        self._sink, self._status, self._times, self._live = sink, status, times, live
        self.fault_kind = f"sink:{name}"
        self._queue: BoundedQueue[Result] = BoundedQueue(QUEUE_SIZE, drop_oldest=live)
        self.error: BaseException | None = None
        self._is_behind = self._is_ended = self.is_committed = False
        self._thread = threading.Thread(
            target=self._write, name=f"aerogaze-{type(sink).__name__}", daemon=True
        )
        self._thread.start()

    def put(self, result: Result) -> None:
        """Queue a result; in a run over a file, block while the queue is full."""
        if self._queue.put(result):
            self._is_behind = True
            self._status.report_fault(self.fault_kind, "slower than the results: the oldest are dropped")

    def finish(self) -> None:
        """Accept no more results and wait until the queued ones are written."""
        self._queue.finish()
        self._thread.join(END_TIMEOUT_S if self._live else None)

    def commit(self) -> None:
        """Commit the output if it is complete, otherwise set `error` and discard it.

        After a live run, what a sink has written before it failed is committed: it cannot be recorded again.
        Only the first call of `commit` or `discard` has an effect.
        """
        if self._is_ended:
            return
        if self.error is not None and not self._live:
            self.discard()
            return
        self._is_ended = True
        if self._thread.is_alive():  # it may still be writing: neither finish nor discard is safe
            self._fail(InputError(f"still writing {END_TIMEOUT_S:g} s after the end of the run"))
            return
        try:
            self._sink.finish()
            self._sink.commit()
            self.is_committed = True
        except BaseException as error:
            self._fail(error)
            self._sink.discard()
            if not isinstance(error, Exception):
                raise

    def discard(self) -> None:
        """Remove the output."""
        if not self._is_ended:
            self._is_ended = True
            self._sink.discard()

    def _write(self) -> None:
        while (result := self._queue.get()) is not None:
            if self.error is not None:
                continue  # keep emptying the queue: its producer may wait
            try:
                with self._times.measure(self.fault_kind):
                    self._sink.write(result)
            except BaseException as error:  # also SystemExit, which would silently end this thread only
                if not self._live or isinstance(error, InputError):
                    self._fail(error)
                else:
                    self._status.report_fault(self.fault_kind, format_error(error))
                continue
            # The fault ends when the queue is empty, not at each slot that becomes free.
            if self._is_behind and self._queue.is_empty():
                self._is_behind = False
            if not self._is_behind:
                self._status.report_recovery(self.fault_kind)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        if not isinstance(error, ClosedPipeError):  # its reader has enough; that is no fault
            self._status.report_fault(self.fault_kind, format_error(error))


class SinkGroup:
    """The sinks of a run: starts their workers, and commits or discards every output at the end.

    Args:
        sinks: The sinks, which the group owns from now on.
        status: Status of the run.
        times: Times of the run, which get the time that each sink works.
        live: Whether the run is live.
    """

    def __init__(self, sinks: Sequence[Sink], status: Status, times: StageTimes, live: bool) -> None:
        self._sinks, self._status, self._times, self._live = sinks, status, times, live
        self._workers: list[SinkWorker] = []

    @property
    def failures(self) -> tuple[str, ...]:
        """Sinks whose output is incomplete, each with the reason."""
        return tuple(
            f"{worker.fault_kind}: {format_error(worker.error)}"
            for worker in self._workers
            if worker.error is not None
        )

    @property
    def committed(self) -> tuple[str, ...]:
        """Sinks whose output is at its final path."""
        return tuple(worker.fault_kind for worker in self._workers if worker.is_committed)

    def start(self) -> None:
        """Start a worker for each sink; if one does not start, `abort` ends those that did."""
        names = unique_names([type(sink).__name__.removesuffix("Sink").lower() for sink in self._sinks])
        for sink, name in zip(self._sinks, names, strict=True):
            self._workers.append(SinkWorker(sink, name, self._status, self._times, self._live))

    def put(self, result: Result) -> None:
        """Queue a result at every sink."""
        for worker in self._workers:
            worker.put(result)

    def close(self, commit: bool) -> None:
        """Wait until everything is written, then commit or discard each output.

        Raises:
            Exception: In a run over a file, the first error if all sinks failed.
        """
        for worker in self._workers:
            worker.finish()
        for worker in self._workers:
            if commit:
                worker.commit()
            else:
                worker.discard()
        self.raise_if_all_failed()

    def abort(self, commit: bool) -> None:
        """Close after an error: commit or discard each output, whatever another sink raises."""
        for worker in self._workers:
            worker.finish()
        with ExitStack() as closing:
            for worker in self._workers:
                closing.callback(worker.commit if commit else worker.discard)
            for sink in self._sinks[len(self._workers) :]:
                closing.callback(sink.discard)

    def raise_if_all_failed(self) -> None:
        """In a run over a file, raise the first error if all sinks failed: the run has no purpose left."""
        errors = [worker.error for worker in self._workers if worker.error is not None]
        if errors and len(errors) == len(self._workers) and not self._live:
            raise errors[0]


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with a number at repeated ones, such as "jsonl-2"."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [f"{name}-{count}" if count > 1 else name for name, count in zip(names, counts, strict=True)]


def format_error(error: BaseException) -> str:
    """Return an error as one line."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
