"""Tests of the inputs of a graph for the frames of a clip."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image
from edge.release.release import ClipSpec, StateSpec
from export.compare.frame_inputs import ClipInputs, FrameInputs, PairInputs, SingleFrameInputs, StreamInputs


def prepare(image: Image) -> NDArray[Any]:
    """Return an input (1, 1, 1, 1) with the number of the frame."""
    return np.full((1, 1, 1, 1), float(image.flat[0]), np.float32)


def numbered_frame(number: int) -> Image:
    return np.full((2, 2, 3), number, np.uint8)


def run(inputs: FrameInputs, frames: int) -> list[list[dict[str, list[float]]]]:
    """Return the numbers of the frames in each feed, for each frame of a clip."""
    return [
        [{name: value.ravel().tolist() for name, value in feed.items()} for feed in inputs.feeds(frame)]
        for frame in map(numbered_frame, range(frames))
    ]


def test_stream_runs_the_preroll_before_the_first_frame_of_each_clip() -> None:
    release = Mock(preroll=2, stream_preprocessor=lambda fps: lambda image: (prepare(image),))
    inputs = StreamInputs(release, ("x",))
    expected = [[{"x": [0]}] * 3, [{"x": [1]}], [{"x": [2]}]]
    assert run(inputs, 3) == expected
    inputs.reset(10)
    assert run(inputs, 3) == expected
    assert run(SingleFrameInputs(prepare, "x"), 2) == [[{"x": [0]}], [{"x": [1]}]]


def test_pair_has_the_previous_frame_and_the_first_frame_twice() -> None:
    assert run(PairInputs(prepare, ("now", "past"), (), looks_ahead=False), 3) == [
        [{"now": [0], "past": [0]}],
        [{"now": [1], "past": [0]}],
        [{"now": [2], "past": [1]}],
    ]


def test_pair_of_a_student_that_looks_ahead_has_the_past_frame_first() -> None:
    feeds = run(PairInputs(prepare, ("a", "b"), (), looks_ahead=True), 3)
    assert feeds[-1] == [{"a": [1], "b": [2]}]


def test_pair_has_the_frame_of_the_longest_lag_at_the_frame_rate_of_the_clip() -> None:
    states = (StateSpec("h", "h_out", (1,), 0.0), StateSpec("p", "p_out", (1,), 0.0, 0.2))
    inputs = PairInputs(prepare, ("now", "past"), states, looks_ahead=False)
    inputs.reset(20)
    assert run(inputs, 6)[-1] == [{"now": [5], "past": [1]}]
    inputs.reset(10)
    assert run(inputs, 6)[-1] == [{"now": [5], "past": [3]}]


def test_clip_with_one_map_slides_and_starts_with_copies_of_the_first_frame() -> None:
    inputs = ClipInputs(prepare, "x", ClipSpec(3, 1))
    expected = [[{"x": [0, 0, 0]}], [{"x": [0, 0, 1]}], [{"x": [0, 1, 2]}], [{"x": [1, 2, 3]}]]
    assert run(inputs, 4) == expected
    inputs.reset(10)
    assert run(inputs, 4) == expected


def test_clip_with_several_maps_runs_when_it_has_as_many_new_frames() -> None:
    inputs = ClipInputs(prepare, "x", ClipSpec(2, 2))
    assert run(inputs, 4) == [[], [{"x": [0, 1]}], [], [{"x": [2, 3]}]]
