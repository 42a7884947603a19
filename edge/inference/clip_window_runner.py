"""Frame-by-frame runner for students that take whole clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from edge.core.frames import GraphInput, Tensor
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.inference.interface.runner import Runner
from edge.release.release import ClipSpec

WindowChoice = Literal["slide", "blocks"]
WINDOW_CHOICES: tuple[WindowChoice, ...] = get_args(WindowChoice)


class ClipWindowRunner:
    """A `Runner` around that of a clip graph: takes frames (1, 3, H, W), returns one map (1, 1, H, W) each.

    A sliding window moves by one frame. The graph runs for each frame, and its last map, that of the newest
    frame, is returned. At the start the window is filled with the first frame.

    Blocks need a graph with one map per frame. It runs once per `clip.frames` frames. Its maps are available
    when the block is full: the map of frame i after frame i + `clip.frames` - 1. Until then maps are zeros.

    Args:
        runner: The runner of the clip graph.
        clip: Number of frames and maps of the graph.
        input_name: Name of the graph's input.
        output_name: Name of the graph's output.

    Attributes:
        runner: The runner of the clip graph.
        window: How frames become clips. It may be changed before `reset`. By default blocks, if the graph
            permits them.
    """

    def __init__(self, runner: Runner, clip: ClipSpec, input_name: str, output_name: str) -> None:
        self.description = runner.description
        self.window: WindowChoice = "slide" if clip.maps == 1 else "blocks"
        self.runner, self._clip, self._input, self._output = runner, clip, input_name, output_name
        self._clip_values: Tensor | None = None
        self._past: deque[Tensor] = deque(maxlen=clip.frames)
        self._block_maps: deque[Tensor] = deque()
        self._filled = 0

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        """Return the next map for the next frame."""
        frame = feed[self._input]
        if self._clip_values is None:
            batch, channels, height, width = frame.shape
            self._clip_values = np.empty((batch, channels, self._clip.frames, height, width), np.float32)
        saliency = (self._slide if self.window == "slide" else self._fill)(frame, self._clip_values)
        return {self._output: saliency}

    def _slide(self, frame: GraphInput, clip: Tensor) -> Tensor:
        """Return the map of the newest frame."""
        # A copy: the caller may reuse its buffer, and the window keeps the frame.
        kept = np.array(frame, np.float32)
        self._past.extend([kept] * (1 if self._past else self._clip.frames))
        np.stack(self._past, axis=2, out=clip)
        return self.runner.infer({self._input: clip})[self._output][:, -1:]

    def _fill(self, frame: GraphInput, clip: Tensor) -> Tensor:
        """Return the map of the frame that is one block older."""
        clip[:, :, self._filled] = frame
        self._filled = (self._filled + 1) % self._clip.frames
        if not self._filled:
            maps = self.runner.infer({self._input: clip})[self._output].copy()
            self._block_maps.extend(maps[:, index : index + 1] for index in range(self._clip.maps))
        if self._block_maps:
            return self._block_maps.popleft()
        return np.zeros((1, 1, *frame.shape[2:]), np.float32)

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        """Start a new clip."""
        self._past.clear()
        self._block_maps.clear()
        self._filled = 0

    def close(self) -> None:
        """Free the engine."""
        self.runner.close()
