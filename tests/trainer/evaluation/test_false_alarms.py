"""False alarms: thresholds come from other places, and a region counts by its centre."""

from __future__ import annotations

import math

import pytest

from edge.postprocessing.regions import Region
from trainer.evaluation.false_alarms import (
    ClipRegions,
    false_alarms_at,
    false_alarms_by_place,
    is_on_target,
    mean_false_alarms,
    reliability,
)

NAN = math.nan


def region_at(x: float, y: float) -> Region:
    return Region(x, y, x - 0.1, y - 0.1, x + 0.1, y + 0.1, 0.5)


def sequence(place: str, *found: float) -> ClipRegions:
    return ClipRegions(place, "sequence", tuple(found), tuple(found))


def test_threshold_of_a_place_comes_from_the_other_places() -> None:
    clips = [
        sequence("sea", *[0.2] * 10),
        sequence("roads", *[0.6] * 10),
        ClipRegions(None, "made empty", (0.1, 0.3, 0.7, 0.9), ()),
        ClipRegions("sea", "view", (0.65,), ()),
        ClipRegions("roads", "view", (0.25,), ()),
    ]
    places = false_alarms_by_place(clips)
    assert places["sea"].threshold == pytest.approx(0.6)
    assert places["roads"].threshold == pytest.approx(0.2)
    assert (places["sea"].reported, places["roads"].reported) == (0.0, 1.0)
    assert places["sea"].by_kind == {"made empty": 0.5, "view": 1.0}
    assert places["roads"].by_kind == {"made empty": 0.75, "view": 1.0}
    assert mean_false_alarms(places).alarms == pytest.approx((0.625 + 1) / 2), "kinds count alike"


def test_place_has_no_threshold_if_no_target_was_found_in_the_others() -> None:
    assert false_alarms_by_place([sequence("sea", 0.5)]) == {}
    assert set(false_alarms_by_place([sequence("sea", 0.5), sequence("roads", NAN)])) == {"roads"}


def test_target_without_a_region_counts_as_not_reported_but_sets_no_threshold() -> None:
    clips = [sequence("sea", 0.5, NAN), sequence("roads", *[0.4] * 9, NAN)]
    places = false_alarms_by_place(clips)
    assert places["sea"].threshold == pytest.approx(0.4)
    assert places["sea"].reported == 0.5
    assert places["roads"].reported == 0.0
    assert false_alarms_at(clips, 0.45).reported == pytest.approx(1 / 12)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.50, 0.50, True),
        (0.525, 0.50, True),  # in the margin of one cell of the map
        (0.54, 0.50, False),
        (0.50, 0.56, False),
    ],
)
def test_region_is_on_a_target_if_its_centre_is_in_the_grown_box(x: float, y: float, expected: bool) -> None:
    box = (304.0, 168.0, 32.0, 24.0)  # the middle of a frame of 640 x 360
    assert is_on_target(region_at(x, y), box, (640, 360), (64, 64)) is expected


def test_reliability_counts_first_regions_by_their_score() -> None:
    first = ((0.1, False), (0.1, True), (0.9, True), (1.0, True), (0.4, False))
    clip = ClipRegions("sea", "sequence", (), (), first)
    bins = {(b.low, b.high): (b.frames, b.on_target) for b in reliability([clip])}
    assert bins[0.0, 0.2] == (2, 0.5)
    assert bins[0.2, 0.4] == (0, None)
    assert bins[0.4, 0.6] == (1, 0.0)
    assert bins[0.8, 1.0] == (2, 1.0), "a score of 1 belongs to the last bin"
