"""Recurrent state of a streaming graph between frames, independent of the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from edge.release.release import StateSpec

NOMINAL_FPS = 10.0
"""Frame rate that is assumed if it is unknown: that of the golden set and of synthetic training flights."""

Value = TypeVar("Value")


class RecurrentState(Generic[Value]):
    """The values of all states of a graph: arrays or tensors on any device.

    A state is fed the output that the graph computed `StateSpec.lag_frames` before. While the clip is shorter
    than the lag, it is fed the oldest output; before the first frame, its start value. States may share an
    output.

    Args:
        states: The states of the graph.
        starts: The start value of each state, by input name.
    """

    def __init__(self, states: Sequence[StateSpec], starts: Mapping[str, Value]) -> None:
        self._states, self._starts = states, starts
        self.outputs = list(dict.fromkeys(state.output for state in states))
        """Names of the graph's state outputs, without duplicates."""
        self._history: dict[str, deque[Value]] = {}
        self.reset()

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Clear the history: the next frame starts a new clip at `fps` frames per second."""
        self._history = {state.input: deque(maxlen=state.lag_frames(fps)) for state in self._states}

    def feed(self) -> dict[str, Value]:
        """Return the values to feed to the next call, by input name."""
        return {
            name: history[0] if history else self._starts[name] for name, history in self._history.items()
        }

    def update(self, outputs: Mapping[str, Value]) -> None:
        """Store the state outputs of a call, by output name. The values must not be modified later."""
        for state in self._states:
            self._history[state.input].append(outputs[state.output])
