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
    label = "frame of a varied scene, relative to a plain one"
    frames = (
        Row(label, VARIED, PLAIN, bound=1.3, at_least=False),
        Row("frame of a plain scene", PLAIN, unit="ms", scale=1e3, at_least=False),
        *(Row(f"frame of {kind}, relative to a plain one", kind, PLAIN, at_least=False) for kind in PLACES),
    )
    scenes = (
        Row("scene of the varied world, relative to a plain one", VARIED, PLAIN, at_least=False),
        Row("plain scene", PLAIN, unit="ms", scale=1e3, at_least=False),
    )
    return Benchmark("frames", 30, frames, _open_frames), Benchmark("scenes", 8, scenes, _open_scenes)


@contextmanager
def _open_frames(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    def render(worlds: list[World]) -> None:
        for seed, world in enumerate(worlds):
            world.frame(FRAME_STEP * seed)

    kinds = {PLAIN: "", VARIED: VARIED, **{kind: kind for kind in PLACES}}
    worlds = {name: [World(seed, *SIZE, kind=kind) for seed in range(SCENES)] for name, kind in kinds.items()}
    yield {
        name: timed(partial(render, scenes), work=SCENES, clock=time.process_time)
        for name, scenes in worlds.items()
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
