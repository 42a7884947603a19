"""Rows of the simulated world: time to build a scene and to render its frames."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge.simulation.kinds.catalogue import PLACES, VARIED
from edge.simulation.world import World
from tests.bench.rows import BenchRow, print_times, time_in_turns

SIZE = (256, 144)
"""Frames as students are trained on them."""
SCENES, FRAME_STEP = 30, 37


def simulation_rows(_folder: Path) -> Iterator[BenchRow]:
    """Yield the cost of the varied scenes relative to the plain ones, and of each kind in a note."""
    plain, varied = ([World(seed, *SIZE, kind=kind) for seed in range(SCENES)] for kind in ("", VARIED))

    def render(worlds: list[World]) -> None:
        """Render a frame of each world."""
        for seed, world in enumerate(worlds):
            world.frame(FRAME_STEP * seed)

    frames_s = time_in_turns({"plain": partial(render, plain), VARIED: partial(render, varied)}, 1, 5)
    print_times("frames of 256x144", frames_s, SCENES)
    scenes_s = time_in_turns(
        {
            "plain": lambda: [World(seed, *SIZE) for seed in range(SCENES)],
            VARIED: lambda: [World(seed, *SIZE, kind=VARIED) for seed in range(SCENES)],
        },
        1,
        3,
    )
    print_times("scenes", scenes_s, SCENES)
    places = {kind: [World(seed, *SIZE, kind=kind) for seed in range(SCENES // 3)] for kind in PLACES}
    places_s = time_in_turns({kind: partial(render, worlds) for kind, worlds in places.items()}, 1, 3)
    print_times("frames by place", places_s, SCENES // 3)
    ratio = frames_s[VARIED] / frames_s["plain"]
    yield BenchRow("frame of a varied scene, relative to a plain one", ratio, "x", 1.3, at_least=False)
