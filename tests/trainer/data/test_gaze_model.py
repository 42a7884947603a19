"""Gaze model: the density is on targets and prefers those that move."""

from __future__ import annotations

import numpy as np
import pytest

from edge.simulation.world import VisibleTarget, World
from trainer.data.gaze_model import gaze_density


class StaticWorld:
    """World whose targets never change."""

    width, height, fps = 256, 144, 10.0

    def __init__(self, *targets: VisibleTarget) -> None:
        self._targets = targets

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Return the same targets for every frame."""
        return self._targets


def car(target_id: int, x: float, moving: bool, contrast: float = 0.5) -> VisibleTarget:
    """Return a car-sized target in the middle row."""
    return VisibleTarget(
        target_id, "car", (x, 68.0, 12.0, 8.0), 2.0 if moving else 0.0, moving, contrast, 1.0
    )


@pytest.mark.parametrize("seed", range(8))
def test_density_sums_to_one(seed: int) -> None:
    world = World(seed, 256, 144)
    for shape in ((64, 64), (160, 90)):
        density = gaze_density(world, 12, *shape)
        assert density.shape == shape[::-1]
        assert density.dtype == np.float32
        assert density.min() >= 0
        assert density.sum() == pytest.approx(1.0, abs=1e-4)


def test_moving_target_gets_more_attention_than_its_static_twin() -> None:
    density = gaze_density(StaticWorld(car(0, 60, True), car(1, 184, False)), 0, 256, 144)
    assert density[:, :128].sum() > 4 * density[:, 128:].sum()


def test_contrast_decides_between_static_targets() -> None:
    density = gaze_density(StaticWorld(car(0, 60, False, 0.2), car(1, 184, False, 0.9)), 0, 256, 144)
    assert density[:, 128:].sum() > 2 * density[:, :128].sum()


def test_weak_target_gets_little_attention_next_to_a_strong_one() -> None:
    world = StaticWorld(car(0, 60, True, 0.9), car(1, 184, True, 0.1))
    density = gaze_density(world, 0, 256, 144)
    assert density[:, :128].sum() > 1.5 * density[:, 128:].sum()


def test_empty_world_has_a_broad_central_density() -> None:
    density = gaze_density(StaticWorld(), 0, 64, 36)
    row, column = divmod(int(density.argmax()), 64)
    assert row in (17, 18)
    assert column in (31, 32)
    assert density.max() < 0.01


def test_peak_of_the_density_is_on_a_target() -> None:
    hits = []
    for seed in range(30):
        world = World(seed, 256, 144)
        movers = [t for t in world.targets(10) if t.is_moving and t.visible_fraction > 0.8]
        if movers:
            y, x = np.unravel_index(gaze_density(world, 10, 256, 144).argmax(), (144, 256))
            hits.append(
                any(
                    t.box[0] - 3 <= x <= t.box[0] + t.box[2] + 3
                    and t.box[1] - 3 <= y <= t.box[1] + t.box[3] + 3
                    for t in world.targets(10)
                )
            )
    assert np.mean(hits) > 0.9
