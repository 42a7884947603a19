"""What a streaming graph carries from frame to frame, whoever runs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.release import State

Values = Mapping[str, NDArray[Any]]


class Carried:
    """The states of one stream.

    `dtypes`: of the graph's inputs by name; those of the states are taken.
    """

    def __init__(self, states: Sequence[State], dtypes: Mapping[str, Any]) -> None:
        self._states = states
        self._starts = {s.input: np.full(s.shape, s.start, dtypes[s.input]) for s in states}
        self._past: dict[str, deque[NDArray[Any]]] = {}
        self.reset(fps=0)

    def reset(self, fps: float) -> None:
        """Put every state back to its start value, for frames that come at `fps` a second."""
        self._past = {s.input: deque([self._starts[s.input]], maxlen=s.lag_frames(fps)) for s in self._states}

    def feed(self) -> dict[str, NDArray[Any]]:
        """Return what the graph's state inputs take now."""
        return {name: values[0] for name, values in self._past.items()}

    def take(self, outputs: Values) -> None:
        """Keep what the graph's state outputs gave."""
        for state in self._states:
            past = self._past[state.input]
            if past[0] is self._starts[state.input]:
                past.clear()
            past.append(outputs[state.output])
