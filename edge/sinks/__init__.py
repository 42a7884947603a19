"""Sinks: where results go, a file per kind. Each writes beside its place and renames at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.frames import Frame, Tensor
from edge.regions import Region


@dataclass(frozen=True)
class Result:
    """A frame's saliency map (height, width), non-negative.

    `latency_ms`: from the frame's decoding, or live from its capture, to its map, waiting included.
    `regions`: with ids, the one to follow first; none where no `Observer` looked.
    """

    frame: Frame
    saliency: Tensor
    latency_ms: float
    regions: tuple[Region, ...] = ()


Look = Callable[[Result], Result]
"""What a sink does with a result first: an `Observer`, which finds regions, or nothing."""


def as_it_is(result: Result) -> Result:
    """Return the result."""
    return result


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
