"""From a recipe to a student, whatever its kind."""

from __future__ import annotations

from trainer.models.student import Student
from trainer.recipes.loader import QatRecipe, Recipe, SkdRecipe, TinyHDRecipe
from trainer.training import qat, skd, tinyhd
from trainer.training.loop import TrainingRun


def train(recipe: Recipe, run: TrainingRun | None = None) -> Student:
    """Train a student as the recipe says, or go on where the run's folder has it.

    Raises:
        InputError: as `open_run` and the kind's own training do.
    """
    run = run or TrainingRun()  # opened by each once its data are there
    if isinstance(recipe, TinyHDRecipe):
        return tinyhd.distil(recipe, run)
    if isinstance(recipe, QatRecipe):
        return qat.tune(recipe, run)
    assert isinstance(recipe, SkdRecipe), recipe
    return skd.distil(recipe, run)
