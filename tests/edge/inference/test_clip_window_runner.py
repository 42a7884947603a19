"""Tests of the runner of clip graphs frame by frame: sliding windows and blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edge.core.frames import GraphInput, Tensor
from edge.inference.clip_window_runner import ClipWindowRunner, WindowChoice
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.release.release import ClipSpec

FRAMES, SHAPE = 4, (1, 3, 2, 2)


class NumberedClips:
    """A `Runner` whose map for a frame is the number in it plus a hundredth of the clip's first number."""

    description = "numbered"

    def __init__(self, maps: int) -> None:
        self._maps = maps
        self.clips: list[list[int]] = []

    def infer(self, feed: Mapping[str, GraphInput]) -> dict[str, Tensor]:
        clip = np.asarray(feed["frame"], np.float32)
        self.clips.append([int(number) for number in clip[0, 0, :, 0, 0]])
        saliency: Tensor = (clip[:, 0, -self._maps :] + clip[:, 0, :1] / 100).astype(np.float32)
        return {"saliency": saliency}

    def reset(self, fps: float = NOMINAL_FPS) -> None:
        raise AssertionError("a clip graph has no state")

    def close(self) -> None:
        pass


def play(runner: ClipWindowRunner, count: int) -> list[float]:
    """Return a value of the map after each of the frames 1, 2, ...; the buffer of the frame is reused."""
    runner.reset()
    buffer = np.empty(SHAPE, np.float32)
    values: list[float] = []
    for number in range(1, count + 1):
        buffer[...] = number
        saliency = runner.infer({"frame": buffer})["saliency"]
        assert saliency.shape == (1, 1, 2, 2)
        values.append(float(saliency[0, 0, 0, 0]))
    return values


def run(clips: NumberedClips, maps: int, count: int, window: WindowChoice | None = None) -> list[float]:
    """Play the frames twice, compare, and return the values: after a reset nothing of the first is left."""
    runner = ClipWindowRunner(clips, ClipSpec(FRAMES, maps), "frame", "saliency")
    if window is not None:
        runner.window = window
    first_values, first_clips = play(runner, count), [*clips.clips]
    clips.clips.clear()
    values = play(runner, count)
    assert (values, clips.clips) == (first_values, first_clips)
    return values


@pytest.mark.parametrize(("maps", "window"), [(1, None), (FRAMES, "slide")])
def test_sliding_window_gives_the_map_of_the_newest_frame_at_once(
    maps: int, window: WindowChoice | None
) -> None:
    clips = NumberedClips(maps)
    values = run(clips, maps, 6, window)
    assert clips.clips == [[1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert values == pytest.approx([1.01, 2.01, 3.01, 4.01, 5.02, 6.03])


def test_blocks_compute_each_frame_once_and_give_its_map_a_block_later() -> None:
    clips = NumberedClips(FRAMES)
    values = run(clips, FRAMES, 10)
    assert clips.clips == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert values == pytest.approx([0, 0, 0, 1.01, 2.01, 3.01, 4.01, 5.05, 6.05, 7.05])
