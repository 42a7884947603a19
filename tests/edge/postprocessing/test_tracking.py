"""Ids that stay, through what makes them change elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from edge.postprocessing.regions import Region
from edge.postprocessing.tracking import HOLD_S, RegionTracker

FRAME_S = 1 / 30


def at(x: float, y: float, score: float = 0.3) -> Region:
    return Region(x, y, x - 0.05, y - 0.05, x + 0.05, y + 0.05, score)


def ids(regions: tuple[Region, ...]) -> list[int]:
    return [region.id for region in regions]


def test_two_that_cross_keep_their_ids() -> None:
    track = RegionTracker()
    for index in range(31):
        across = 0.2 + 0.6 * index / 30
        seen = track((at(across, 0.48, 0.4), at(1 - across, 0.52, 0.3)), index * FRAME_S)
    assert {region.id: round(region.x, 2) for region in seen} == {1: 0.8, 2: 0.2}
    assert seen[0].age_s == pytest.approx(1)


def test_a_missed_frame_coasts_and_does_not_cost_the_id() -> None:
    track = RegionTracker()
    for index in range(20):
        missed = index in (10, 14, 15, 16)
        (seen,) = track(() if missed else (at(0.2 + 0.02 * index, 0.5),), index * FRAME_S)
        assert seen.id == 1
        assert seen.coasting == missed
        assert seen.x == pytest.approx(0.2 + 0.02 * index, abs=0.02)
        assert seen.right - seen.left == pytest.approx(0.1)


def test_a_box_that_coasts_out_of_the_frame_ends_at_its_side() -> None:
    track = RegionTracker()
    for index in range(20):
        (seen,) = track((at(0.5 + 0.024 * index, 0.5),) if index < 18 else (), index * FRAME_S)
    assert seen.coasting
    assert seen.right == 1
    assert 0.89 < seen.left < seen.x < 1


def test_what_stays_away_is_forgotten_and_its_id_is_never_used_again() -> None:
    track = RegionTracker()
    track((at(0.5, 0.5),), 0.0)
    frames = int(HOLD_S / FRAME_S) + 2
    seen = [track((), index * FRAME_S) for index in range(1, frames)]
    assert ids(seen[0]) == [1]
    assert seen[-1] == ()
    assert ids(track((at(0.5, 0.5),), frames * FRAME_S)) == [2]
    assert ids(track((at(0.5, 0.5),), 1e6)) == [3]  # a clock that leaps
    assert ids(track((at(0.5, 0.5),), 5.0)) == [4]  # and goes back


def test_a_frame_a_second_keeps_its_ids_from_the_second_on() -> None:
    track = RegionTracker()
    seen = [ids(track((at(0.3 + 0.02 * index, 0.5),), 10.0 + index)) for index in range(6)]
    assert seen == [[1], [2], [2], [2], [2], [2]], "how often they come is not known at first"
    assert ids(track((at(0.42, 0.5),), 20.0)) == [3], "a gap among them is one"


def test_a_whip_of_the_camera_is_no_motion_of_the_regions() -> None:
    """A third of the frame between two frames: without the camera's motion the ids are lost."""
    whip = np.array([[1, 0, 0.33], [0, 1, -0.1], [0, 0, 1.0]])
    for motion, expected in ((whip, [1, 2]), (None, [3, 4])):
        track = RegionTracker()
        track((at(0.1, 0.5, 0.5), at(0.45, 0.6, 0.2)), 0)
        seen = track((at(0.43, 0.4, 0.5), at(0.78, 0.5, 0.2)), FRAME_S, motion=motion)
        assert [region.id for region in seen if not region.coasting] == expected


def test_a_jump_is_a_new_region_at_once() -> None:
    track = RegionTracker()
    track((at(0.2, 0.2),), 0)
    seen = track((at(0.8, 0.8),), FRAME_S)
    assert [(region.id, region.coasting) for region in seen if region.x > 0.5] == [(2, False)]


def test_the_one_to_follow_does_not_change_for_a_little() -> None:
    track = RegionTracker()
    for index in range(10):
        flicker = 0.02 if index % 2 else -0.02
        seen = track((at(0.2, 0.5, 0.3 + flicker), at(0.8, 0.5, 0.3 - flicker)), index * FRAME_S)
        assert seen[0].id == 2
    assert track((at(0.2, 0.5, 0.5), at(0.8, 0.5, 0.3)), 10 * FRAME_S)[0].id == 1


def test_distance_counts_alike_across_and_down() -> None:
    """Of two candidates the nearer in pixels is taken: .05 of a height is less than .04 of a width."""
    track = RegionTracker()
    track((at(0.5, 0.5),), 0)
    seen = track((at(0.54, 0.5), at(0.5, 0.55)), FRAME_S, aspect=9 / 16)
    assert next(region for region in seen if region.id == 1).y == 0.55


def test_what_is_weak_may_go_on_but_not_begin() -> None:
    track = RegionTracker()
    assert track((at(0.5, 0.5, 0.02),), 0) == ()
    assert ids(track((at(0.5, 0.5, 0.2),), FRAME_S)) == [1]
    (weak,) = track((at(0.5, 0.5, 0.02),), 2 * FRAME_S)
    assert (weak.id, weak.coasting) == (1, False)
