"""The result of one frame, and the transforms that sinks apply to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.core.frames import Frame, Tensor
from edge.postprocessing.regions import Region


@dataclass(frozen=True)
class Result:
    """A frame's saliency map (height, width), non-negative.

    `latency_ms`: from the frame's decoding, or live from its capture, to its map, waiting included.
    `regions`: with ids, the one to follow first; none where no `MapAnalyzer` looked.
    """

    frame: Frame
    saliency: Tensor
    latency_ms: float
    regions: tuple[Region, ...] = ()


ResultTransform = Callable[[Result], Result]
"""What a sink does with a result first: an `MapAnalyzer`, which finds regions, or nothing."""


def identity(result: Result) -> Result:
    """Return the result."""
    return result
