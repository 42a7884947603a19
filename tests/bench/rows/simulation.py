"""Rows of the simulated world: time to build a scene and to render its frames."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from edge.simulation.kinds.catalogue import PLACES, VARIED
from edge.simulation.world import World
from tests.bench.measurement.row import Benchmark, Contestant, Row, timed

SIZE = (256, 144)
"""Frames as students are trained on them."""
PLAIN = "plain scene"
SCENES, FRAME_STEP = 30, 37


def benchmarks() -> Sequence[Benchmark]:
    """Return the cost of the varied scenes relative to the plain ones, and of each kind."""
    frames = (
        Row("frame of a varied scene, relative to a plain one", VARIED, PLAIN, bound=1.3, at_least=False),
        Row("frame of a plain scene", PLAIN, unit="ms", scale=1e3, at_least=False),
    )
    places = [Row(f"frame of {kind}", kind, unit="ms", scale=1e3, at_least=False) for kind in PLACES]
    scenes = (
        Row("scene of the varied world, relative to a plain one", VARIED, PLAIN, at_least=False),
        Row("plain scene", PLAIN, unit="ms", scale=1e3, at_least=False),
    )
    kinds = {PLAIN: "", VARIED: VARIED}
    return (
        Benchmark("frames", 28, frames, partial(_open_frames, kinds, SCENES)),
        Benchmark("frames by place", 15, places, partial(_open_frames, {kind: kind for kind in PLACES}, 3)),
        Benchmark("scenes", 8, scenes, _open_scenes),
    )


@contextmanager
def _open_frames(kinds: Mapping[str, str], scenes: int, _folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open a call per kind that renders a frame of each of some scenes."""

    def render(worlds: list[World]) -> None:
        for seed, world in enumerate(worlds):
            world.frame(FRAME_STEP * seed)

    worlds = {name: [World(seed, *SIZE, kind=kind) for seed in range(scenes)] for name, kind in kinds.items()}
    yield {
        name: timed(partial(render, each), work=scenes, clock=time.process_time)
        for name, each in worlds.items()
    }


@contextmanager
def _open_scenes(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Build scenes of the same seeds in the same order on both sides."""

    def build(kind: str, seeds: Iterator[int]) -> None:
        World(next(seeds) % SCENES, *SIZE, kind=kind)

    yield {
        name: Contestant(
            timed(partial(build, kind, count()), clock=time.process_time).take_turn, repeats=False
        )
        for name, kind in ((PLAIN, ""), (VARIED, VARIED))
    }
