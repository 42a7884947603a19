"""What a training step costs, and how much of it waits for data, by stage of what ships."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

from tests.bench.rows import Row
from trainer.recipes.loader import load_recipe
from trainer.training.loop import Progress, Run
from trainer.training.run import train

STEPS = {"skd-64": {"teachers": 5, "students": 5, "network": 36}, "stream": {"distillation": 6}}
"""Of each stage: scenes are rendered as often as in a whole training, and the first wait is not counted."""


def training_rows() -> list[Row]:
    """Each recipe's stages for a few steps, one process and one worker that renders."""
    rows: list[Row] = []
    for name, steps in STEPS.items():
        recipe = load_recipe(name, {f"{stage}.steps": str(count) for stage, count in steps.items()})
        ends: dict[str, list[float]] = {}
        waits: dict[str, float] = {}

        def on_step(
            progress: Progress, ends: dict[str, list[float]] = ends, waits: dict[str, float] = waits
        ) -> None:
            ends.setdefault(progress.stage, []).append(time.perf_counter())
            waits[progress.stage] = progress.wait

        train(recipe, Run(on_step=on_step))
        for stage, at in ends.items():
            step = statistics.median(later - earlier for earlier, later in pairwise(at))
            batch = recipe.stages[stage].batch
            rows.append(Row(f"{name} {stage}: a step of {batch}", step * 1e3, "ms"))
            rows.append(Row(f"{name} {stage}: waiting for data", waits[stage] * 100, "%"))
    return rows
