"""Recurrent state of a streaming graph in GPU memory: one ring of buffers per state output.

The rule is that of `edge.inference.interface.recurrent_state.RecurrentState`, applied to addresses. Frame n
writes buffer n % period of each ring. A state with a lag of l frames reads buffer (n - l) % period. After
`warmup_frames` frames the addresses repeat every `period` frames, so `period` CUDA graphs cover all frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.inference.cuda.backend import Cuda, Memory, Stream
from edge.release.release import StateSpec


class DeviceRecurrentState:
    """Rings of buffers on the GPU.

    A ring grows when a frame rate needs more buffers than it has, and never shrinks.

    Args:
        states: The states of the graph.
        dtypes: Data type of each state, by input name.
        cuda: The GPU.
        stream: The stream that initializes the start values.
        multiple: `period` is a multiple of this number.

    Attributes:
        lags: Lag of each state in frames, at the current frame rate.
        warmup_frames: Number of frames until every state reads an output of the graph.
        period: Number of frames after which the addresses repeat: the length of the rings.
    """

    def __init__(
        self,
        states: Sequence[StateSpec],
        dtypes: Mapping[str, np.dtype[Any]],
        cuda: Cuda,
        stream: Stream,
        multiple: int,
    ) -> None:
        self._states, self._cuda, self._multiple = states, cuda, multiple
        self._sizes = {s.output: int(np.prod(s.shape)) * dtypes[s.input].itemsize for s in states}
        self._rings: dict[str, list[Memory]] = {name: [] for name in self._sizes}
        self._starts: dict[str, Memory] = {}
        for state in states:
            start = cuda.allocate_pinned(state.shape, dtypes[state.input])
            start.values[...] = state.start
            memory = cuda.allocate(start.size_bytes)
            cuda.copy(memory, start, stream)
            self._starts[state.input] = memory
        cuda.synchronize(stream)
        self.lags: tuple[int, ...] = ()
        self.warmup_frames = 0
        self.period = multiple

    def set_frame_rate(self, fps: float) -> None:
        """Compute lags and period for a frame rate, and allocate the buffers that are missing."""
        self.lags = tuple(state.lag_frames(fps) for state in self._states)
        self.warmup_frames = max(self.lags, default=0)
        buffers = self.warmup_frames + 1 if self.lags else 0
        self.period = self._multiple * max(1, -(-buffers // self._multiple))
        for name, ring in self._rings.items():
            while len(ring) < self.period:
                ring.append(self._cuda.allocate(self._sizes[name]))

    def addresses(self, frame: int) -> dict[str, int]:
        """Return the addresses that frame number `frame` of a clip reads and writes, by tensor name."""
        addresses = {name: ring[frame % self.period].address for name, ring in self._rings.items()}
        for state, lag in zip(self._states, self.lags, strict=True):
            # While the clip is shorter than the lag, the state is the output of its first frame.
            past = self._rings[state.output][max(0, frame - lag) % self.period]
            addresses[state.input] = (past if frame else self._starts[state.input]).address
        return addresses
