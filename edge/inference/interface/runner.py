"""The interface of inference engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from edge.core.frames import GraphInput, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS


class Runner(Protocol):
    """An engine that was opened for one graph. States are carried inside, from call to call."""

    description: str
    """Which engine, version, device and threads: for reports."""

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs (states left out) by name for inputs by name, float32.

        A returned array is valid until the next call.
        """

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""

    def close(self) -> None:
        """Free the engine. A closed runner cannot be used again."""


@runtime_checkable
class PipelinedRunner(Runner, Protocol):
    """A runner that can start on a frame while one before it is still computed.

    One thread submits and collects; results come in order. While frames are in flight, `infer` is refused.
    """

    depth: int
    """How many frames may be in flight."""

    def submit(self, feed: Mapping[str, GraphInput]) -> None:
        """Start on a frame, and return at once; `feed` may be changed then."""

    def collect(self) -> dict[str, Tensor]:
        """Wait for the oldest frame in flight; what is returned is valid until the next `submit`."""
