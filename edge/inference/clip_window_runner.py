"""A student that takes whole clips, run frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from edge.core.frames import GraphInput, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import Runner
from edge.release.manifest import ClipSpec


class ClipWindowRunner:
    """A `Runner` around the runner of a clip graph: frames (1, 3, H, W) in, a map (1, 1, H, W) each.

    A student of one map a clip slides its window by a frame, filled with the clip's first frame at the
    start; the map is the last frame's. One of a map a frame takes block after block: a map comes when its
    block is full, that of frame i after frame i + `clip.frames` - 1; until then maps are zeros.
    """

    def __init__(self, runner: Runner, clip: ClipSpec, frame: str, output: str) -> None:
        self.description = runner.description
        self._runner, self._clip, self._frame, self._output = runner, clip, frame, output
        self._seen: deque[Tensor] = deque(maxlen=clip.frames)
        self._ready: deque[Tensor] = deque()
        self._new = 0

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the map that is due."""
        frame = np.array(feed[self._frame], np.float32)
        sliding = self._clip.maps == 1
        self._seen.extend([frame] * (self._clip.frames if sliding and not self._seen else 1))
        self._new += 1
        if self._new == self._clip.maps:
            self._new = 0
            maps = self._runner.infer({self._frame: np.stack(self._seen, axis=2)})[self._output]
            self._ready.extend(maps[:, index : index + 1].copy() for index in range(self._clip.maps))
        if len(self._ready) or sliding:
            return {self._output: self._ready.popleft()}
        return {self._output: np.zeros((1, 1, *frame.shape[2:]), np.float32)}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Forget the past."""
        self._seen.clear()
        self._ready.clear()
        self._new = 0

    def close(self) -> None:
        """Free the engine."""
        self._runner.close()
