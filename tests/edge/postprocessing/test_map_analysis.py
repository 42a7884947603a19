"""Smoothing, regions and tracking together, on frames of a moving camera."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from edge.core.frames import Frame
from edge.metrics.score_calibration import ScoreCalibration
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.postprocessing.result import Result
from tests.support.maps import blob, ground


def make_result(index: int, image: np.ndarray, *blobs: tuple[float, float], fps: float = 10) -> Result:
    saliency = np.sum([blob(x, y) for x, y in blobs], axis=0).astype(np.float32)
    return Result(Frame(index, index / fps, image), saliency, 1.0)


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return ground(1600, 720)


def test_ids_stay_while_the_camera_turns_fast(plane: np.ndarray) -> None:
    """The camera moves by 80 px, an eighth of the frame, per frame; the second object appears late."""
    analyze, results = MapAnalyzer(), []
    for index in range(5):
        left = 80 * index
        positions = [((x - left) / 640, 0.5) for x in (560, 720)]
        image = plane[180:540, left : left + 640]
        visible = [position for position in positions if 0 < position[0] < 1]
        results.append(analyze(make_result(index, image, *visible)).regions)
    assert [region.id for region in results[0]] == [1]
    for index in (3, 4):
        positions_by_id = {region.id: region.x for region in results[index] if not region.coasting}
        assert positions_by_id[1] == pytest.approx((560 - 80 * index) / 640, abs=0.02)
        assert positions_by_id[2] == pytest.approx((720 - 80 * index) / 640, abs=0.02)
        assert len(positions_by_id) == 2


def test_each_result_is_analyzed_once_and_late_results_change_nothing(plane: np.ndarray) -> None:
    analyze, image = MapAnalyzer(), plane[:360, :640]
    results = [make_result(index, image, (0.3 + 0.02 * index, 0.5)) for index in range(6)]
    analyzed = [analyze(results[index]) for index in (0, 1, 3, 5)]
    repeated = analyze(results[3])
    assert repeated.regions is analyzed[2].regions
    assert repeated.saliency is analyzed[2].saliency
    late = analyze(results[4])
    assert late.regions == analyzed[3].regions
    assert late.saliency is results[4].saliency
    assert [result.regions[0].id for result in analyzed] == [1] * 4
    restarted = analyze(make_result(0, plane[:360, 600:1240], (0.9, 0.9)))
    assert restarted.regions[0].id == 2


def test_shape_of_frames_and_maps_may_change(plane: np.ndarray) -> None:
    analyze = MapAnalyzer()
    analyze(make_result(0, plane[:360, :640], (0.5, 0.5)))
    odd = Result(Frame(1, 0.1, plane[:333, :222]), blob(0.4, 0.5, side=32), 1.0)
    assert analyze(odd).regions[0].x == pytest.approx(0.4, abs=0.02)
    flat = Result(Frame(2, 0.2, np.zeros((1, 1, 3), np.uint8)), np.zeros((64, 64), np.float32), 1.0)
    assert np.isfinite(analyze(flat).saliency).all()


def test_frames_are_not_kept_in_memory(plane: np.ndarray) -> None:
    analyze = MapAnalyzer()
    images = [plane[:360, :640].copy() for _ in range(20)]
    references = [weakref.ref(image) for image in images]
    for index in range(20):
        analyze(make_result(index, images[index], (0.5, 0.5)))
    images.clear()
    assert not any(reference() is not None for reference in references)


def test_wide_map_of_an_empty_scene_has_no_region_and_a_focused_one_has(plane: np.ndarray) -> None:
    """The wide region has a larger share of its map than the small one."""
    calibration = ScoreCalibration(share=0.25, focus=1.3, offset=-4.5, threshold=0.4)
    frame = Frame(0, 0.0, plane[:360, :640])
    wide, small = blob(0.5, 0.5, sigma=14), blob(0.3, 0.4, sigma=1.5) + 0.001
    (region,) = MapAnalyzer(calibration)(Result(frame, small, 1.0)).regions
    assert region.x == pytest.approx(0.3, abs=0.02)
    assert region.score > 0.4
    assert MapAnalyzer(calibration)(Result(frame, wide, 1.0)).regions == ()
    (reported,) = MapAnalyzer(calibration, threshold=0.0)(Result(frame, wide, 1.0)).regions
    assert reported.score < 0.2
    assert reported.share > region.share


def test_region_of_a_scene_that_becomes_empty_coasts_and_is_dropped(plane: np.ndarray) -> None:
    calibration = ScoreCalibration(share=0.25, focus=1.3, offset=-4.5, threshold=0.4)
    analyze, image = MapAnalyzer(calibration), plane[:360, :640]
    states = []
    for index in range(20):
        saliency = blob(0.5, 0.5, sigma=1.5 if index < 5 else 14)
        regions = analyze(Result(Frame(index, index / 10, image), saliency, 1.0)).regions
        states.append([region.coasting for region in regions])
    assert states[4] == [False]
    assert [True] in states
    assert states[-1] == []
