"""Frame-by-frame runner for students that take whole clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from edge.core.frames import GraphInput, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import Runner
from edge.release.manifest import ClipSpec


class ClipWindowRunner:
    """A `Runner` around that of a clip graph: takes frames (1, 3, H, W), returns one map (1, 1, H, W) each.

    A student with one map per clip uses a sliding window, filled with the clip's first frame at the start.
    The map belongs to the last frame.

    A student with one map per frame processes blocks of `clip.frames` frames. Its maps are available when
    the block is full: the map of frame i after frame i + `clip.frames` - 1. Until then maps are zeros.

    Args:
        runner: The runner of the clip graph.
        clip: Number of frames and maps of the graph.
        input_name: Name of the graph's input.
        output_name: Name of the graph's output.
    """

    def __init__(self, runner: Runner, clip: ClipSpec, input_name: str, output_name: str) -> None:
        self.description = runner.description
        self._runner, self._clip, self._input, self._output = runner, clip, input_name, output_name
        self._window: deque[Tensor] = deque(maxlen=clip.frames)
        self._pending_maps: deque[Tensor] = deque()
        self._new_frames = 0

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the next map for the next frame."""
        # A copy: the caller may reuse its buffer, and the window keeps the frame.
        frame = np.array(feed[self._input], np.float32)
        is_sliding = self._clip.maps == 1
        copies = self._clip.frames if is_sliding and not self._window else 1
        self._window.extend([frame] * copies)
        self._new_frames += 1
        if self._new_frames == self._clip.maps:
            self._new_frames = 0
            maps = self._runner.infer({self._input: np.stack(self._window, axis=2)})[self._output]
            self._pending_maps.extend(maps[:, index : index + 1].copy() for index in range(self._clip.maps))
        if len(self._pending_maps) or is_sliding:
            return {self._output: self._pending_maps.popleft()}
        return {self._output: np.zeros((1, 1, *frame.shape[2:]), np.float32)}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Start a new clip."""
        self._window.clear()
        self._pending_maps.clear()
        self._new_frames = 0

    def close(self) -> None:
        """Free the engine."""
        self._runner.close()
