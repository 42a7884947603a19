"""The interface of a sink."""

from __future__ import annotations

from typing import Protocol

from edge.postprocessing.result import Result


class Sink(Protocol):
    """Takes results in order, on a thread of its own."""

    def write(self, result: Result) -> None:
        """Take the next result.

        Raises:
            InputError: the output cannot go on; in a live run it gets no more, and is finished at the end.
            Any other error: in a live run this result is lost, and the next one is given.
        """

    def finish(self) -> None:
        """All results are in: write the output to its end. Whatever can fail fails here.

        Raises:
            InputError: the output is not whole.
        """

    def commit(self) -> None:
        """Put the finished output in its place."""

    def discard(self) -> None:
        """The run failed: leave nothing behind, and what was there before as it was."""
