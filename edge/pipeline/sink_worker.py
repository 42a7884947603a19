"""A sink with a thread and a short queue of its own, so that none waits for another."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edge.core.errors import InputError
from edge.core.run_status import Status
from edge.pipeline.bounded_queue import BoundedQueue
from edge.postprocessing.result import Result
from edge.sinks.sink import Sink

AHEAD = 4
"""Results waiting at a sink: enough to overlap, few enough to be small."""
END_S = 5.0
"""How long the end of a live run waits for a sink that is still writing."""


class SinkWorker:
    """Gives results to a sink. `error`: what keeps it from going on; `wrote`: its output is in its place.

    Each sink fails alone, and is told in the status as `sink:NAME`. In a file's run a slow one holds the run
    back; one that fails gets no more and is discarded. In a live run nothing of a sink reaches the engine: a
    slow one loses its oldest results. There InputError means that the sink cannot go on, as on a full disk:
    it gets no more. Any other error costs that result only, as with a lost connection.
    """

    def __init__(self, sink: Sink, name: str, status: Status, live: bool) -> None:
        self._sink, self._status, self._live = sink, status, live
        self.kind = f"sink:{name}"
        self._channel: BoundedQueue[Result] = BoundedQueue(AHEAD, newest=live)
        self.error: BaseException | None = None
        self._behind = self._ended = self.wrote = False
        self._thread = threading.Thread(
            target=self._write, name=f"aerogaze-{type(sink).__name__}", daemon=True
        )
        self._thread.start()

    def put(self, result: Result) -> None:
        """Queue a result; in a file's run this waits for a place."""
        if self._channel.put(result):
            self._behind = True
            self._status.report_fault(self.kind, "slower than the results come: the oldest are dropped")

    def end(self) -> None:
        """Wait until all that is queued is written."""
        self._channel.end()
        self._thread.join(END_S if self._live else None)

    def keep(self) -> None:
        """Put the sink's output in its place if it is whole; `error` says what speaks against.

        After a live run, what a sink had before it failed is kept: nobody can record it again. Once: the next
        calls of this or of `discard` change nothing.
        """
        if self._ended:
            return
        if self.error is not None and not self._live:
            self.discard()
            return
        self._ended = True
        if self._thread.is_alive():  # it may still be writing: neither finish nor discard is safe
            self._fail(InputError(f"it was still writing {END_S:g} s after the end"))
            return
        try:
            self._sink.finish()
            self._sink.commit()
            self.wrote = True
        except BaseException as error:
            self._fail(error)
            self._sink.discard()
            if not isinstance(error, Exception):
                raise

    def discard(self) -> None:
        """Remove what the sink has written."""
        if not self._ended:
            self._ended = True
            self._sink.discard()

    def _write(self) -> None:
        while (result := self._channel.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._sink.write(result)
            except BaseException as error:  # SystemExit too: it would end this thread alone
                if not self._live or isinstance(error, InputError):
                    self._fail(error)
                else:
                    self._status.report_fault(self.kind, format_error(error))
                continue
            if self._behind and self._channel.empty():  # caught up; not at each place that gets free
                self._behind = False
            if not self._behind:
                self._status.report_recovery(self.kind)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self._status.report_fault(self.kind, format_error(error))


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names, a second of a kind as "jsonl-2"."""
    seen = [names[: at + 1].count(name) for at, name in enumerate(names)]
    return [f"{name}-{count}" if count > 1 else name for name, count in zip(names, seen, strict=True)]


def format_error(error: BaseException) -> str:
    """Return an error in a line."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
