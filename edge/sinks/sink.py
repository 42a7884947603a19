"""Interface of a sink."""

from __future__ import annotations

from typing import Protocol

from edge.postprocessing.result import Result


class Sink(Protocol):
    """Output of a run: gets the results in order, on a thread of its own."""

    def write(self, result: Result) -> None:
        """Write the next result.

        Raises:
            InputError: The output cannot continue. In a live run the sink gets no more results; what it has
                written is finished at the end.
            Exception: Any other error. In a live run only this result is lost.
        """

    def finish(self) -> None:
        """Complete the output after the last result; everything that can fail fails here.

        Raises:
            InputError: The output is incomplete.
        """

    def commit(self) -> None:
        """Move the finished output to its final path."""

    def discard(self) -> None:
        """Remove the output of a failed run; an older output at the same path stays as it was."""
