"""Time of a training step, and the share of it that waits for data, for each stage of the shipped recipes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

from tests.bench.rows import BenchRow
from trainer.recipes.loader import load_recipe
from trainer.training.loop import TrainingRun
from trainer.training.monitor import TrainingProgress
from trainer.training.run import train

STEPS = {"skd-64": {"teachers": 5, "students": 5, "network": 36}, "stream": {"distillation": 6}}
"""Steps of each stage. Scenes are rendered as often as in a whole training; the first wait is not counted."""


def training_rows() -> Iterator[BenchRow]:
    """Train each recipe for a few steps per stage, with one process and one rendering worker."""
    for name, steps in STEPS.items():
        recipe = load_recipe(name, {f"{stage}.steps": str(count) for stage, count in steps.items()})
        step_ends_s: dict[str, list[float]] = {}
        waits: dict[str, float] = {}

        def on_step(
            progress: TrainingProgress,
            step_ends_s: dict[str, list[float]] = step_ends_s,
            waits: dict[str, float] = waits,
        ) -> None:
            step_ends_s.setdefault(progress.stage, []).append(time.perf_counter())
            waits[progress.stage] = progress.data_wait

        train(recipe, TrainingRun(on_step=on_step))
        for stage, ends_s in step_ends_s.items():
            step_s = statistics.median(later - earlier for earlier, later in pairwise(ends_s))
            batch = recipe.stages[stage].batch
            yield BenchRow(f"{name} {stage}: a step of {batch}", step_s * 1e3, "ms")
            yield BenchRow(f"{name} {stage}: waiting for data", waits[stage] * 100, "%")
