"""Graph inputs for the frames of a clip, in order: one class for each way to feed a graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.inputs.graph_inputs import FeedDict
from edge.core.frames import Image
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.release.release import ClipSpec, Release, StateSpec

Prepare = Callable[[Image], NDArray[Any]]


class FrameInputs(Protocol):
    """Converts the frames of a clip to the inputs of a graph."""

    def reset(self, fps: float) -> None:
        """Start a new clip at `fps` frames per second."""

    def feeds(self, frame: Image) -> list[FeedDict]:
        """Return the inputs of the runs for the next frame (H, W, 3), uint8 BGR.

        The last run gives the frame's map. There is no run while the graph needs more frames.
        """


class SingleFrameInputs:
    """The prepared frame."""

    def __init__(self, prepare: Prepare, name: str) -> None:
        self._prepare, self._name = prepare, name

    def reset(self, fps: float) -> None:
        """Start a new clip, which changes nothing."""

    def feeds(self, frame: Image) -> list[FeedDict]:
        """Return one feed."""
        return [{self._name: self._prepare(frame)}]


class StreamInputs:
    """The inputs of a release's stream: the frame and, if aligned, a past frame or the homography to it.

    The first frame of a clip runs `preroll` more times, to settle the states.
    """

    def __init__(self, release: Release, names: Sequence[str]) -> None:
        self._release, self._names = release, names
        self.reset(NOMINAL_FPS)

    def reset(self, fps: float) -> None:
        """Start a new clip."""
        self._prepare = self._release.stream_preprocessor(fps)
        self._repeats = self._release.preroll

    def feeds(self, frame: Image) -> list[FeedDict]:
        """Return one feed; for the first frame `preroll` + 1 equal ones."""
        runs, self._repeats = 1 + self._repeats, 0
        return [dict(zip(self._names, self._prepare(frame), strict=True))] * runs


class PairInputs:
    """The prepared frame and a past one.

    The past frame is one frame back, or as many as the longest lag of the release's states. At the start of
    a clip it is the clip's first frame.

    Args:
        prepare: Converts a frame to the value of an input.
        names: Names of both inputs.
        states: The states of the release.
        looks_ahead: Pass the past frame first: the map is that of the past frame.
    """

    def __init__(
        self, prepare: Prepare, names: Sequence[str], states: Sequence[StateSpec], looks_ahead: bool
    ) -> None:
        self._prepare, self._names, self._states, self._looks_ahead = prepare, names, states, looks_ahead
        self.reset(NOMINAL_FPS)

    def reset(self, fps: float) -> None:
        """Start a new clip."""
        lag = max((state.lag_frames(fps) for state in self._states), default=1)
        self._past: deque[NDArray[Any]] = deque(maxlen=lag)

    def feeds(self, frame: Image) -> list[FeedDict]:
        """Return one feed."""
        current = self._prepare(frame)
        past = self._past[0] if self._past else current
        self._past.append(current)
        pair = (past, current) if self._looks_ahead else (current, past)
        return [dict(zip(self._names, pair, strict=True))]


class ClipInputs:
    """The last frames, stacked to a clip (1, C, frames, H, W).

    A graph with one map per clip runs for each frame; the clip starts with copies of the first frame. A
    graph with several maps per clip runs each time that it has as many new frames.
    """

    def __init__(self, prepare: Prepare, name: str, clip: ClipSpec) -> None:
        self._prepare, self._name, self._clip = prepare, name, clip
        self.reset(NOMINAL_FPS)

    def reset(self, fps: float) -> None:
        """Start a new clip."""
        self._frames: deque[NDArray[Any]] = deque(maxlen=self._clip.frames)
        self._count = 0

    def feeds(self, frame: Image) -> list[FeedDict]:
        """Return one feed, or none while new frames are missing."""
        prepared = self._prepare(frame)
        self._count += 1
        needs_padding = self._clip.maps == 1 and not self._frames
        self._frames.extend([prepared] * (self._clip.frames if needs_padding else 1))
        if self._count % self._clip.maps:
            return []
        return [{self._name: np.stack(self._frames, axis=2)}]
