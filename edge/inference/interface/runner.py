"""The interface of inference engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edge.core.frames import GraphInput, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.release.release import StateSpec

TensorShape = tuple[int | None, ...]
"""Shape of a graph's tensor; None is a dynamic dimension."""


@dataclass(frozen=True)
class GraphSignature:
    """Tensors that a graph must have.

    Attributes:
        inputs: Shapes of the inputs by name, without the states.
        outputs: Shapes of the outputs by name, without the states.
        states: The states of a streaming graph.
    """

    inputs: Mapping[str, TensorShape]
    outputs: Mapping[str, TensorShape]
    states: Sequence[StateSpec] = ()


class Runner(Protocol):
    """An engine opened for one graph. It keeps the states of the graph between calls."""

    description: str
    """Engine, version, device and threads, for reports."""

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the outputs (without states) by name, float32, for inputs by name.

        A returned array is valid until the next call.
        """

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Set every state to its start value; the next frames come at `fps` frames per second."""

    def close(self) -> None:
        """Free the engine. A closed runner cannot be used again."""


@runtime_checkable
class PipelinedRunner(Runner, Protocol):
    """A runner that can start a frame while an earlier one is still being computed.

    One thread submits and collects. Results come in order. `infer` is refused while frames are in flight.
    """

    depth: int
    """Maximum number of frames in flight."""

    def submit(self, feed: Mapping[str, GraphInput]) -> None:
        """Start a frame and return at once. The caller may modify `feed` afterwards."""

    def collect(self) -> dict[str, Tensor]:
        """Wait for the oldest frame in flight. The returned arrays are valid until the next `submit`."""


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """A runner whose feeds may have a `DeviceFrame` as raw frame, which it copies on the GPU."""

    takes_device_frames: bool
    """True."""


@runtime_checkable
class ShareableRunner(Runner, Protocol):
    """A runner whose engine can serve several streams of frames at the same time."""

    def share(self) -> Runner:
        """Return a runner of the same engine with states of its own; the engine is freed with the last."""
