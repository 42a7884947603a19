"""Tests of the synthetic world: reproducible, independent of resolution, with correct ground truth."""

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
ANY_PYTHON = pytest.mark.any_python(
    reason="NumPy and OpenCV compute the scenes; the other tests of this file run the same code"
)
NO_EFFECTS = CameraEffects((1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 100)


def grey(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a grey float image."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32)


@pytest.mark.parametrize("seed", [0, 3, 9])
def test_frames_are_reproducible_in_any_order(seed: int) -> None:
    """A frame does not depend on the frames requested before."""
    forward = World(seed, *SMALL)
    frames = [forward.frame(i).image for i in (0, 1, 7)]
    backward = World(seed, *SMALL)
    for i, expected in ((7, frames[2]), (0, frames[0]), (1, frames[1])):
        assert np.array_equal(backward.frame(i).image, expected)


def test_frames_are_reproducible_in_another_process() -> None:
    """A frame does not depend on the process."""
    code = (
        "import zlib; from edge.simulation.world import World; "
        "print(zlib.crc32(World(5, 256, 144).frame(3).image.tobytes()))"
    )
    crcs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(crcs) == 1


def test_frames_and_targets_have_documented_shapes_and_ranges() -> None:
    """Shapes, types and ranges hold far into the clip and before its start."""
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


@ANY_PYTHON
@pytest.mark.parametrize("seed", [2, 4, 11])
def test_scene_does_not_depend_on_resolution(seed: int) -> None:
    """Boxes scale exactly; images agree except for fine detail."""
    small, large = World(seed, *SMALL), World(seed, 768, 432)
    for a, b in zip(small.targets(8), large.targets(8), strict=True):
        assert np.allclose(np.array(a.box) * 3, b.box, atol=0.05)
        assert a.speed == pytest.approx(b.speed, rel=1e-3)
    left = cv2.GaussianBlur(grey(small.frame(8).image), (0, 0), 4)
    right = cv2.resize(grey(large.frame(8).image), SMALL, interpolation=cv2.INTER_AREA)
    right = cv2.GaussianBlur(right, (0, 0), 4)
    assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.9


def is_clearly_visible(target: VisibleTarget) -> bool:
    """Return whether a target is large, whole and of good contrast."""
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


@ANY_PYTHON
def test_removing_a_target_changes_only_its_box() -> None:
    """Without a target, almost only the pixels in its box change."""
    checked = invisible = 0
    for seed in range(60):
        world = World(seed, *SMALL)
        world._scene = replace(world._scene, effects=NO_EFFECTS, shadow=0.0)
        for target in filter(is_clearly_visible, world.targets(4)):
            x, y, w, h = target.box
            change = np.abs(
                grey(world.frame(4).image) - grey(world.without_target(target.target_id).frame(4).image)
            )
            change[change < 6] = 0
            if np.count_nonzero(change > 12) < 4:
                invisible += 1
                continue
            inside = change[int(y - 1) : int(y + h + 2), int(x - 1) : int(x + w + 2)]
            assert inside.sum() > 0.9 * change.sum()
            assert np.count_nonzero(inside) > 0.1 * w * h
            checked += 1
    assert checked >= 10
    assert invisible <= 1  # covered by objects that the boxes do not describe


@ANY_PYTHON
def test_many_scenes_have_a_static_double_of_a_mover() -> None:
    """In many scenes a mover has a static double of the same kind and appearance."""
    scenes_with_pairs = 0
    for seed in range(60):
        actors = World(seed, *SMALL)._scene.actors
        movers = [a for a in actors if a.is_moving]
        twins = [a for a in actors if not a.is_moving and any(a.appearance == m.appearance for m in movers)]
        scenes_with_pairs += bool(twins)
        for twin in twins:
            mover = next(m for m in movers if m.appearance == twin.appearance)
            assert np.array_equal(twin.mesh(0.0).mean_colour(), twin.mesh(9.0).mean_colour())
            assert np.allclose(twin.mesh(0.0).mean_colour(), mover.mesh(0.0).mean_colour(), atol=12)
    assert scenes_with_pairs > 15


@ANY_PYTHON
def test_static_targets_have_no_speed_under_camera_motion() -> None:
    """Static targets have no speed of their own, even if the image shifts."""
    shifted = 0
    for seed in range(24):
        world = World(seed, *SMALL)
        for actor in world._scene.actors:
            world = world.without_target(actor.target_id) if actor.is_moving else world
        now, later = world.targets(0), world.targets(15)
        assert not any(t.is_moving or t.speed for t in (*now, *later))
        positions = {t.target_id: t.box[:2] for t in now}
        shifted += any(
            t.target_id in positions and abs(t.box[0] - positions[t.target_id][0]) > 2 for t in later
        )
    assert shifted >= 3


@ANY_PYTHON
def test_movers_have_speed() -> None:
    """The speed of a moving target is that of its box against the ground."""
    speeds = [t.speed for seed in range(30) for t in World(seed, *SMALL).targets(0) if t.is_moving]
    assert len(speeds) > 15
    assert np.median(speeds) > 0.3


def test_too_small_size_is_rejected() -> None:
    """The message says what is accepted."""
    with pytest.raises(ValueError, match="at least 16x16"):
        World(0, 4, 4)
