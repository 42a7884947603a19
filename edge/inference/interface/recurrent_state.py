"""What a stream carries from frame to frame, whatever runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from edge.release.manifest import StateSpec

NOMINAL_FPS = 10.0
"""The frame rate taken where none is known: that of the golden set, and of the made flights trained on."""

Value = TypeVar("Value")


class RecurrentState(Generic[Value]):
    """The states' values: arrays or tensors, on any device.

    Each state is fed what the graph gave its lag before; until the clip is as old as that, the oldest
    there is; and before the first frame its start value. States may share an output.
    """

    def __init__(self, states: Sequence[StateSpec], starts: Mapping[str, Value]) -> None:
        """`starts`: the start value of each state, by input."""
        self._states, self._starts = states, starts
        self.outputs = list(dict.fromkeys(state.output for state in states))
        """What the graph gives of its states, each once."""
        self._past: dict[str, deque[Value]] = {}
        self.reset()

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Forget the past: the next frame starts a new clip, of `fps` frames a second."""
        self._past = {state.input: deque(maxlen=state.lag_frames(fps)) for state in self._states}

    def feed(self) -> dict[str, Value]:
        """Return the states' values by input."""
        return {name: past[0] if past else self._starts[name] for name, past in self._past.items()}

    def update(self, given: Mapping[str, Value]) -> None:
        """Keep what the graph gave, by output; it must not change later."""
        for state in self._states:
            self._past[state.input].append(given[state.output])
