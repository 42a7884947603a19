"""Tests of scenes of a kind: reproducible, with distractors that are no targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge.simulation.kinds.builder import LOOKALIKES, MAX_HEIGHT_M, MIN_HEIGHT_M, build_kind_scene
from edge.simulation.kinds.catalogue import BLANKS, CONDITIONS, EMPTY, KINDS, PLACES, VARIED, sample_setting
from edge.simulation.world import World

SMALL = (128, 72)
ANY_PYTHON = pytest.mark.any_python(
    reason="NumPy and OpenCV compute the scenes; the other tests of this file run the same code"
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_renders_the_same_frame_in_any_order(kind: str) -> None:
    forward, backward = World(7, *SMALL, kind=kind), World(7, *SMALL, kind=kind)
    frames = [forward.frame(index) for index in (-3, 40)]
    assert np.array_equal(backward.frame(40).image, frames[1].image)
    assert np.array_equal(backward.frame(-3).image, frames[0].image)
    for frame in frames:
        assert frame.image.shape == (72, 128, 3)
        assert frame.image.dtype == np.uint8


@ANY_PYTHON
@pytest.mark.parametrize("kind", ["harbour", "night", "thermal"])
def test_targets_do_not_depend_on_resolution(kind: str) -> None:
    small, large = World(3, *SMALL, kind=kind), World(3, 384, 216, kind=kind)
    for a, b in zip(small.targets(8), large.targets(8), strict=True):
        assert np.allclose(np.array(a.box) * 3, b.box, atol=0.05)


@ANY_PYTHON
def test_moment_of_a_scene_does_not_depend_on_the_frame_rate() -> None:
    boxes = [
        [(target.target_id, target.box) for target in World(4, *SMALL, fps, kind="wake").targets(index)]
        for fps, index in ((2.0, 3), (10.0, 15), (60.0, 90))
    ]
    assert boxes[0]
    assert boxes[0] == boxes[1] == boxes[2]


@ANY_PYTHON
@pytest.mark.parametrize("kind", ["crowd", "surf", "wildlife"])
def test_bystanders_are_drawn_and_are_no_targets(kind: str) -> None:
    for seed in range(20):
        world = World(seed, *SMALL, kind=kind)
        scene = world._scene
        targets = {target.target_id for target in world.targets(0)}
        assert targets <= {actor.target_id for actor in scene.actors}
        assert all(actor.target_id == -1 for actor in scene.bystanders)
        with_them = world.frame(0).image
        world._scene = replace(scene, bystanders=())
        if len(scene.bystanders) > 3 and np.any(world.frame(0).image != with_them):
            return
    pytest.fail("no scene shows its bystanders")


@ANY_PYTHON
@pytest.mark.parametrize("kind", ["crowd", "surf", "wildlife"])
def test_among_bystanders_all_targets_move(kind: str) -> None:
    for seed in range(12):
        actors = build_kind_scene(seed, 64, kind, twins=False, empty=False).actors
        assert all(actor.is_moving for actor in actors)


@ANY_PYTHON
def test_empty_scenes_have_no_targets_nor_lookalikes() -> None:
    for seed in range(20):
        scene = build_kind_scene(seed, 64, EMPTY, twins=False, empty=False)
        assert scene.actors == scene.bystanders == ()
    assert World(3, *SMALL, empty=True).targets(0) == ()
    assert World(3, *SMALL, kind="surf", empty=True).targets(0) == ()
    assert {"parked", "parasol"} <= LOOKALIKES


@ANY_PYTHON
@pytest.mark.parametrize("kind", BLANKS)
def test_blank_scenes_have_nothing_in_them(kind: str) -> None:
    for seed in range(6):
        scene = build_kind_scene(seed, 64, kind, twins=False, empty=False)
        assert not scene.actors
        assert not scene.scenery
        assert not scene.bystanders


@ANY_PYTHON
def test_plain_scene_is_empty_only_when_asked() -> None:
    """The argument `empty` without a kind gives another scene, so a plain one stays what it was."""
    plain = World(5, *SMALL)
    assert plain.targets(0)
    assert not plain._scene.ground_layers
    assert not plain._scene.near_layers
    assert not plain._scene.bystanders


@ANY_PYTHON
def test_scenes_of_a_kind_vary_in_height_and_pitch() -> None:
    scenes = [build_kind_scene(seed, 64, VARIED, twins=False, empty=False) for seed in range(24)]
    heights = [scene.flight.distance_m * np.sin(scene.flight.pitch) for scene in scenes]
    pitches = [scene.flight.pitch for scene in scenes]
    assert min(heights) >= MIN_HEIGHT_M - 1e-6
    assert max(heights) <= MAX_HEIGHT_M + 1e-6
    assert min(pitches) < 0.26 < 1.25 < max(pitches)


@ANY_PYTHON
def test_twins_of_a_kind_look_the_same_by_night_and_in_heat() -> None:
    """Neither lamps nor warm engines tell which twin moves."""
    for kind in ("night", "thermal"):
        for seed in range(8):
            actors = build_kind_scene(seed, 64, kind, twins=True, empty=False).actors
            assert sum(actor.is_moving for actor in actors) == 1
            if kind == "thermal":
                means = [actor.mesh(0.0).mean_colour() for actor in actors]
                assert np.ptp(means, axis=0).max() < 8


@ANY_PYTHON
def test_thermal_frames_are_grey() -> None:
    for seed in range(4):
        image = World(seed, *SMALL, kind="thermal").frame(0).image.astype(int)
        assert np.ptp(image, axis=2).max() == 0


@ANY_PYTHON
def test_night_is_darker_than_day() -> None:
    night = np.mean([World(seed, *SMALL, kind="night").frame(0).image.mean() for seed in range(8)])
    day = np.mean([World(seed, *SMALL, kind="plain").frame(0).image.mean() for seed in range(8)])
    assert night < 0.6 * day


def test_unknown_kind_is_rejected() -> None:
    with pytest.raises(ValueError, match="no kind of scene 'lunar'; expected one of varied, plain"):
        World(0, *SMALL, kind="lunar")


@ANY_PYTHON
def test_mixed_kinds_hold_all_places_and_conditions() -> None:
    settings = [
        sample_setting(np.random.default_rng(seed), VARIED, twins=False, empty=False) for seed in range(400)
    ]
    assert {setting.place for setting in settings} == set(PLACES)
    assert {setting.condition for setting in settings} == set(CONDITIONS)
    assert not any(setting.is_empty for setting in settings)
