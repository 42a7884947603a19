"""Time of a training step, and the share of it that waits for data, for each stage of the shipped recipes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from tests.bench.measurement.row import Reading, Readings
from trainer.recipes.loader import Recipe, SkdRecipe, TinyHDRecipe, load_recipe
from trainer.training.loop import TrainingRun
from trainer.training.monitor import TrainingProgress
from trainer.training.pool import open_scenes
from trainer.training.run import train

STEPS = {
    "skd-64": {"teachers": 5, "students": 5, "network": 36},
    "skd-64-motion": {"teachers": 5, "network": 36},
    "stream": {"distillation": 6},
}
"""Steps of each stage; the first wait is not counted."""
SCENES = 90
"""Scenes of the pool. Samples are drawn from them as from a larger one."""


def benchmarks() -> Sequence[Readings]:
    """Return the rendering of a pool of scenes, and a few steps per stage of each recipe, with one worker."""
    return (Readings("recipes", 240, _read_all),)


def _read_all(folder: Path) -> Iterator[Reading]:
    yield _read_rendering(folder)
    yield from _read_steps(folder)


def _read_rendering(folder: Path) -> Reading:
    """Render the pool as a training does, and return the time of 1,000 scenes."""
    recipe, started_s = load_recipe("skd-64", {"world.scenes": str(SCENES)}), time.perf_counter()
    assert isinstance(recipe, SkdRecipe)
    open_scenes(recipe, recipe.world, TrainingRun(pool=_pool(folder, recipe)))
    seconds = (time.perf_counter() - started_s) * 1000 / SCENES
    return Reading("render 1,000 scenes at 256x144, all cores", seconds, "s", at_least=False)


def _pool(folder: Path, recipe: Recipe) -> Path:
    """Return the folder of a recipe's pool: each kind of scenes has its own."""
    assert isinstance(recipe, (SkdRecipe, TinyHDRecipe))
    return folder / (recipe.world.kind or "plain")


def _read_steps(folder: Path) -> Iterator[Reading]:
    """Train each recipe on the pool of its kind; yield time per step and share of waiting of each stage."""
    for name, steps in STEPS.items():
        changes = {f"{stage}.steps": str(count) for stage, count in steps.items()}
        recipe = load_recipe(name, {**changes, "world.scenes": str(SCENES)})
        step_ends_s: dict[str, list[float]] = {}
        waits: dict[str, float] = {}

        def on_step(
            progress: TrainingProgress,
            step_ends_s: dict[str, list[float]] = step_ends_s,
            waits: dict[str, float] = waits,
        ) -> None:
            step_ends_s.setdefault(progress.stage, []).append(time.perf_counter())
            waits[progress.stage] = progress.data_wait

        train(recipe, TrainingRun(on_step=on_step, pool=_pool(folder, recipe)))
        for stage, ends_s in step_ends_s.items():
            step_s = statistics.median(later - earlier for earlier, later in pairwise(ends_s))
            batch = recipe.stages[stage].batch
            yield Reading(f"{name} {stage}: a step of {batch}", step_s * 1e3, "ms", at_least=False)
            yield Reading(f"{name} {stage}: waiting for data", waits[stage] * 100, "%", at_least=False)
