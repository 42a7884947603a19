"""Ids of tracked regions through missed frames, camera motion and jumps of the clock."""

from __future__ import annotations

import numpy as np
import pytest

from edge.postprocessing.regions import Region
from edge.postprocessing.tracking import MAX_COAST_S, RegionTracker

FRAME_S = 1 / 30


def region_at(x: float, y: float, score: float = 0.3) -> Region:
    return Region(x, y, x - 0.05, y - 0.05, x + 0.05, y + 0.05, score, share=score)


def ids(regions: tuple[Region, ...]) -> list[int]:
    return [region.id for region in regions]


def test_crossing_regions_keep_their_ids() -> None:
    track = RegionTracker()
    for index in range(31):
        across = 0.2 + 0.6 * index / 30
        regions = (region_at(across, 0.48, 0.4), region_at(1 - across, 0.52, 0.3))
        tracked = track(regions, index * FRAME_S)
    assert {region.id: round(region.x, 2) for region in tracked} == {1: 0.8, 2: 0.2}
    assert tracked[0].age_s == pytest.approx(1)


def test_region_coasts_through_missed_frames_with_its_id() -> None:
    track = RegionTracker()
    for index in range(20):
        is_missed = index in (10, 14, 15, 16)
        regions = () if is_missed else (region_at(0.2 + 0.02 * index, 0.5),)
        (tracked,) = track(regions, index * FRAME_S)
        assert tracked.id == 1
        assert tracked.coasting == is_missed
        assert tracked.x == pytest.approx(0.2 + 0.02 * index, abs=0.02)
        assert tracked.right - tracked.left == pytest.approx(0.1)


def test_box_that_coasts_out_of_the_frame_is_clipped() -> None:
    track = RegionTracker()
    for index in range(20):
        regions = (region_at(0.5 + 0.024 * index, 0.5),) if index < 18 else ()
        (tracked,) = track(regions, index * FRAME_S)
    assert tracked.coasting
    assert tracked.right == 1
    assert 0.89 < tracked.left < tracked.x < 1


def test_lost_region_is_forgotten_and_its_id_is_never_used_again() -> None:
    track = RegionTracker()
    track((region_at(0.5, 0.5),), 0.0)
    frames = int(MAX_COAST_S / FRAME_S) + 2
    tracked = [track((), index * FRAME_S) for index in range(1, frames)]
    assert ids(tracked[0]) == [1]
    assert tracked[-1] == ()
    assert ids(track((region_at(0.5, 0.5),), frames * FRAME_S)) == [2]
    assert ids(track((region_at(0.5, 0.5),), 1e6)) == [3]  # the clock leaps
    assert ids(track((region_at(0.5, 0.5),), 5.0)) == [4]  # and goes back


def test_ids_stay_from_the_second_frame_on_at_one_frame_per_second() -> None:
    track = RegionTracker()
    tracked = [ids(track((region_at(0.3 + 0.02 * index, 0.5),), 10.0 + index)) for index in range(6)]
    assert tracked == [[1], [2], [2], [2], [2], [2]], "the frame rate is not known at first"
    assert ids(track((region_at(0.42, 0.5),), 20.0)) == [3], "a gap among slow frames is a gap"


def test_fast_camera_motion_keeps_the_ids_only_when_it_is_known() -> None:
    """The camera moves by a third of the frame between two frames."""
    whip = np.array([[1, 0, 0.33], [0, 1, -0.1], [0, 0, 1.0]])
    for motion, expected in ((whip, [1, 2]), (None, [3, 4])):
        track = RegionTracker()
        track((region_at(0.1, 0.5, 0.5), region_at(0.45, 0.6, 0.2)), 0)
        regions = (region_at(0.43, 0.4, 0.5), region_at(0.78, 0.5, 0.2))
        tracked = track(regions, FRAME_S, from_last=motion)
        assert [region.id for region in tracked if not region.coasting] == expected


def test_jump_gives_a_new_region_at_once() -> None:
    track = RegionTracker()
    track((region_at(0.2, 0.2),), 0)
    tracked = track((region_at(0.8, 0.8),), FRAME_S)
    assert [(region.id, region.coasting) for region in tracked if region.x > 0.5] == [(2, False)]


def test_followed_region_does_not_change_for_a_small_difference_of_the_scores() -> None:
    track = RegionTracker()
    for index in range(10):
        flicker = 0.02 if index % 2 else -0.02
        regions = (region_at(0.2, 0.5, 0.3 + flicker), region_at(0.8, 0.5, 0.3 - flicker))
        tracked = track(regions, index * FRAME_S)
        assert tracked[0].id == 2
    assert track((region_at(0.2, 0.5, 0.5), region_at(0.8, 0.5, 0.3)), 10 * FRAME_S)[0].id == 1


def test_distance_counts_alike_across_and_down() -> None:
    """The nearer candidate in pixels is taken: 0.05 of the height is less than 0.04 of the width."""
    track = RegionTracker()
    track((region_at(0.5, 0.5),), 0)
    tracked = track((region_at(0.54, 0.5), region_at(0.5, 0.55)), FRAME_S, aspect=9 / 16)
    assert next(region for region in tracked if region.id == 1).y == 0.55


def test_weak_region_continues_a_track_but_does_not_start_one() -> None:
    track = RegionTracker()
    assert track((region_at(0.5, 0.5, 0.02),), 0) == ()
    assert ids(track((region_at(0.5, 0.5, 0.2),), FRAME_S)) == [1]
    (weak,) = track((region_at(0.5, 0.5, 0.02),), 2 * FRAME_S)
    assert (weak.id, weak.coasting) == (1, False)
