"""Result of one frame, and the transforms that sinks apply to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.core.frames import Frame, Tensor
from edge.postprocessing.regions import Region


@dataclass(frozen=True)
class Result:
    """A frame with its saliency map.

    Attributes:
        frame: The frame.
        saliency: Map (H, W), non-negative.
        latency_ms: Time from decoding (of a live source: from capture) to the map, with all waiting.
        regions: Tracked regions, the one to follow first; empty before a `MapAnalyzer` has found them.
    """

    frame: Frame
    saliency: Tensor
    latency_ms: float
    regions: tuple[Region, ...] = ()


ResultTransform = Callable[[Result], Result]
"""What a sink applies to each result first: a `MapAnalyzer` or `identity`."""


def identity(result: Result) -> Result:
    """Return the result unchanged."""
    return result
