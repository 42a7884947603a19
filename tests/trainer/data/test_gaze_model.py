"""The model of gaze: a density, on the target, that prefers what moves."""

from __future__ import annotations

import numpy as np
import pytest

from edge.simulation.world import VisibleTarget, World
from trainer.data.gaze_model import gaze_density


class Still:
    """A world whose targets never change."""

    width, height, fps = 256, 144, 10.0

    def __init__(self, *targets: VisibleTarget) -> None:
        self._targets = targets

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Always the same."""
        return self._targets


def thing(ident: int, x: float, moving: bool, contrast: float = 0.5) -> VisibleTarget:
    """A car-sized target in the middle row."""
    return VisibleTarget(ident, "car", (x, 68.0, 12.0, 8.0), 2.0 if moving else 0.0, moving, contrast, 1.0)


@pytest.mark.parametrize("seed", range(8))
def test_density_sums_to_one(seed: int) -> None:
    """Whatever the scene and the size asked for."""
    world = World(seed, 256, 144)
    for shape in ((64, 64), (160, 90)):
        density = gaze_density(world, 12, *shape)
        assert density.shape == shape[::-1]
        assert density.dtype == np.float32
        assert density.min() >= 0
        assert density.sum() == pytest.approx(1.0, abs=1e-4)


def test_mover_beats_its_twin() -> None:
    """The same look at the same distance from the middle gets much less when it stands."""
    density = gaze_density(Still(thing(0, 60, True), thing(1, 184, False)), 0, 256, 144)
    assert density[:, :128].sum() > 4 * density[:, 128:].sum()


def test_contrast_decides_among_the_still() -> None:
    """Without motion what stands out wins."""
    density = gaze_density(Still(thing(0, 60, False, 0.2), thing(1, 184, False, 0.9)), 0, 256, 144)
    assert density[:, 128:].sum() > 2 * density[:, :128].sum()


def test_few_get_attention() -> None:
    """A weak rival of a strong thing gets less than its share."""
    pair = Still(thing(0, 60, True, 0.9), thing(1, 184, True, 0.1))
    density = gaze_density(pair, 0, 256, 144)
    assert density[:, :128].sum() > 1.5 * density[:, 128:].sum()


def test_nothing_to_see_is_a_look_at_the_middle() -> None:
    """An empty world gives a broad central density."""
    density = gaze_density(Still(), 0, 64, 36)
    row, column = divmod(int(density.argmax()), 64)
    assert row in (17, 18)
    assert column in (31, 32)
    assert density.max() < 0.01


def test_peak_lies_on_a_target() -> None:
    """The lag moves attention, not the place, off the target."""
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
