"""What a stream carries from frame to frame, kept on the GPU: a ring of buffers for each thing carried.

The same rule as `edge.inference.interface.recurrent_state.RecurrentState`, by addresses: frame n writes buffer n
% length of each ring, and a
state that lags l frames reads buffer (n - l) % length. From frame `settled` on, addresses repeat every
`length` frames, so that many CUDA graphs are all frames there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.inference.cuda.backend import Cuda, Memory, Stream
from edge.release.manifest import StateSpec


class DeviceRecurrentState:
    """The rings. Buffers are taken when a frame rate asks for more than there are, and never given back.

    `kinds`: the type of each state's values, by input; `multiple`: `length` is a multiple of it.
    """

    def __init__(
        self,
        states: Sequence[StateSpec],
        kinds: Mapping[str, np.dtype[Any]],
        cuda: Cuda,
        stream: Stream,
        multiple: int,
    ) -> None:
        self._states, self._cuda, self._multiple = states, cuda, multiple
        self._sizes = {s.output: int(np.prod(s.shape)) * kinds[s.input].itemsize for s in states}
        self._rings: dict[str, list[Memory]] = {name: [] for name in self._sizes}
        self._starts: dict[str, Memory] = {}
        for state in states:
            start = cuda.host(state.shape, kinds[state.input])
            start.values[...] = state.start
            memory = cuda.device(start.size_bytes)
            cuda.copy(memory, start, stream)
            self._starts[state.input] = memory
        cuda.synchronise(stream)
        self.lags: tuple[int, ...] = ()
        self.settled = 0
        self.length = multiple

    def lay_out(self, fps: float) -> None:
        """Make room for the past that is looked back to at a frame rate."""
        self.lags = tuple(state.lag_frames(fps) for state in self._states)
        self.settled = max(self.lags, default=0)
        deepest = self.settled + 1 if self.lags else 0
        self.length = self._multiple * max(1, -(-deepest // self._multiple))
        for name, ring in self._rings.items():
            while len(ring) < self.length:
                ring.append(self._cuda.device(self._sizes[name]))

    def addresses(self, frame: int) -> dict[str, int]:
        """Return where frame number `frame` of a clip reads and writes each state, by tensor's name."""
        found = {name: ring[frame % self.length].address for name, ring in self._rings.items()}
        for state, lag in zip(self._states, self.lags, strict=True):
            past = self._rings[state.output][max(0, frame - lag) % self.length]
            found[state.input] = (past if frame else self._starts[state.input]).address
        return found
