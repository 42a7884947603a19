"""Smoothing, regions and tracking together, on frames of a camera that moves."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from edge.core.frames import Frame
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.result import Result
from tests.support.maps import blob, ground


def result(index: int, image: np.ndarray, *blobs: tuple[float, float], fps: float = 10) -> Result:
    saliency = np.sum([blob(x, y) for x, y in blobs], axis=0).astype(np.float32)
    return Result(Frame(index, index / fps, image), saliency, 1.0)


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return ground(1600, 720)


def test_ids_hold_while_the_camera_whips_round(plane: np.ndarray) -> None:
    """80 px, an eighth of the frame, from frame to frame; two things on the ground, one seen late."""
    observe, seen = MapAnalyzer(), []
    for index in range(5):
        left = 80 * index
        places = [((x - left) / 640, 0.5) for x in (560, 720)]
        frame = plane[180:540, left : left + 640]
        shown = [place for place in places if 0 < place[0] < 1]
        seen.append(observe(result(index, frame, *shown)).regions)
    assert [region.id for region in seen[0]] == [1]
    for index in (3, 4):
        regions = {r.id: r.x for r in seen[index] if not r.coasting}
        assert regions[1] == pytest.approx((560 - 80 * index) / 640, abs=0.02)
        assert regions[2] == pytest.approx((720 - 80 * index) / 640, abs=0.02)
        assert len(regions) == 2


def test_each_result_is_looked_at_once_and_latecomers_disturb_nothing(plane: np.ndarray) -> None:
    observe, frame = MapAnalyzer(), plane[:360, :640]
    results = [result(index, frame, (0.3 + 0.02 * index, 0.5)) for index in range(6)]
    seen = [observe(results[index]) for index in (0, 1, 3, 5)]
    again = observe(results[3])
    assert again.regions is seen[2].regions
    assert again.saliency is seen[2].saliency
    late = observe(results[4])
    assert late.regions == seen[3].regions
    assert late.saliency is results[4].saliency
    assert [one.regions[0].id for one in seen] == [1] * 4
    anew = observe(result(0, plane[:360, 600:1240], (0.9, 0.9)))
    assert anew.regions[0].id == 2


def test_the_shape_of_frames_and_maps_may_change(plane: np.ndarray) -> None:
    observe = MapAnalyzer()
    observe(result(0, plane[:360, :640], (0.5, 0.5)))
    odd = Result(Frame(1, 0.1, plane[:333, :222]), blob(0.4, 0.5, side=32), 1.0)
    assert observe(odd).regions[0].x == pytest.approx(0.4, abs=0.02)
    flat = Result(Frame(2, 0.2, np.zeros((1, 1, 3), np.uint8)), np.zeros((64, 64), np.float32), 1.0)
    assert np.isfinite(observe(flat).saliency).all()


def test_frames_are_not_kept(plane: np.ndarray) -> None:
    observe = MapAnalyzer()
    frames = [plane[:360, :640].copy() for _ in range(20)]
    left = [weakref.ref(frame) for frame in frames]
    for index in range(20):
        observe(result(index, frames[index], (0.5, 0.5)))
    frames.clear()
    assert not any(ref() is not None for ref in left)
