"""The made world: repeatable, the same at any size, and truthful about what is in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edge.simulation.camera_effects import CameraEffects
from edge.simulation.world import VisibleTarget, World

SMALL = (256, 144)
CLEAR = CameraEffects((1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100)


def grey(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A float grey picture."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32)


@pytest.mark.parametrize("seed", [0, 3, 9])
def test_same_seed_and_index_give_same_bytes_in_any_order(seed: int) -> None:
    """Random access does not depend on what was asked before."""
    forward = World(seed, *SMALL)
    frames = [forward.frame(i).image for i in (0, 1, 7)]
    backward = World(seed, *SMALL)
    for i, expected in ((7, frames[2]), (0, frames[0]), (1, frames[1])):
        assert np.array_equal(backward.frame(i).image, expected)


def test_same_bytes_in_another_process() -> None:
    """Nothing hangs on the process."""
    code = (
        "import zlib; from edge.simulation.world import World; "
        "print(zlib.crc32(World(5, 256, 144).frame(3).image.tobytes()))"
    )
    crcs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(crcs) == 1


def test_frames_and_targets_have_the_promised_form() -> None:
    """Shapes, types and ranges, far into the clip and before its start too."""
    for seed in range(6):
        world = World(seed, *SMALL)
        for index in (-5, 0, 5000):
            frame = world.frame(index)
            assert frame.image.shape == (144, 256, 3)
            assert frame.image.dtype == np.uint8
            assert frame.targets == world.targets(index)
            for target in frame.targets:
                x, y, w, h = target.box
                assert min(x, y) >= 0
                assert min(w, h) > 0
                assert x + w <= 256.001
                assert y + h <= 144.001
                assert 0 <= target.visible_fraction <= 1
                assert 0 <= target.contrast <= 1
                assert target.is_moving or target.speed == 0


@pytest.mark.parametrize("seed", [2, 4, 11])
def test_scene_does_not_depend_on_resolution(seed: int) -> None:
    """Boxes scale exactly; pictures agree but for fine grain."""
    small, large = World(seed, *SMALL), World(seed, 768, 432)
    for a, b in zip(small.targets(8), large.targets(8), strict=True):
        assert np.allclose(np.array(a.box) * 3, b.box, atol=0.05)
        assert a.speed == pytest.approx(b.speed, rel=1e-3)
    left = cv2.GaussianBlur(grey(small.frame(8).image), (0, 0), 4)
    right = cv2.resize(grey(large.frame(8).image), SMALL, interpolation=cv2.INTER_AREA)
    right = cv2.GaussianBlur(right, (0, 0), 4)
    assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.9


def sizeable(target: VisibleTarget) -> bool:
    """Plainly visible and whole."""
    x, y, w, h = target.box
    return (
        target.visible_fraction > 0.95
        and min(w, h) > 4
        and target.contrast > 0.15
        and x > 3
        and y > 3
        and x + w < 253
        and y + h < 141
        and target.kind not in ("boat", "surfer")
    )


def test_boxes_hold_what_is_drawn() -> None:
    """Leaving a target out changes its box, and hardly anything but its box."""
    checked = unseen = 0
    for seed in range(60):
        world = World(seed, *SMALL)
        world._scene = replace(world._scene, effects=CLEAR, shadow=0.0)
        for target in filter(sizeable, world.targets(4)):
            x, y, w, h = target.box
            change = np.abs(
                grey(world.frame(4).image) - grey(world.without_target(target.target_id).frame(4).image)
            )
            change[change < 6] = 0
            if np.count_nonzero(change > 12) < 4:
                unseen += 1
                continue
            inside = change[int(y - 1) : int(y + h + 2), int(x - 1) : int(x + w + 2)]
            assert inside.sum() > 0.9 * change.sum()
            assert np.count_nonzero(inside) > 0.1 * w * h
            checked += 1
    assert checked >= 10
    assert unseen <= 1  # covered by what boxes do not tell


def test_twins_look_alike_and_only_some_move() -> None:
    """In a good share of the scenes a mover has a still double of the same kind and look."""
    pairs = 0
    for seed in range(60):
        actors = World(seed, *SMALL)._scene.actors
        movers = [a for a in actors if a.is_moving]
        twins = [a for a in actors if not a.is_moving and any(a.appearance == m.appearance for m in movers)]
        pairs += bool(twins)
        for twin in twins:
            mover = next(m for m in movers if m.appearance == twin.appearance)
            assert np.array_equal(twin.mesh(0.0).mean_colour(), twin.mesh(9.0).mean_colour())
            assert np.allclose(twin.mesh(0.0).mean_colour(), mover.mesh(0.0).mean_colour(), atol=12)
    assert pairs > 15


def test_a_moving_camera_moves_nothing_else() -> None:
    """What stands has no speed of its own, however the picture shifts."""
    shifted = 0
    for seed in range(24):
        world = World(seed, *SMALL)
        for actor in world._scene.actors:
            world = world.without_target(actor.target_id) if actor.is_moving else world
        now, later = world.targets(0), world.targets(15)
        assert not any(t.is_moving or t.speed for t in (*now, *later))
        places = {t.target_id: t.box[:2] for t in now}
        shifted += any(t.target_id in places and abs(t.box[0] - places[t.target_id][0]) > 2 for t in later)
    assert shifted >= 3


def test_movers_move() -> None:
    """A target's speed is what its box does against the ground."""
    speeds = [t.speed for seed in range(30) for t in World(seed, *SMALL).targets(0) if t.is_moving]
    assert len(speeds) > 15
    assert np.median(speeds) > 0.3


def test_wrong_size_is_refused() -> None:
    """The message says what was wrong."""
    with pytest.raises(ValueError, match="at least 16x16"):
        World(0, 4, 4)
