"""Training of a student of any kind from its recipe."""

from __future__ import annotations

from trainer.models.student import Student
from trainer.recipes.loader import QatRecipe, Recipe, SkdRecipe, TinyHDRecipe
from trainer.training import qat, skd, tinyhd
from trainer.training.loop import TrainingRun


def train(recipe: Recipe, run: TrainingRun | None = None) -> Student:
    """Train a student, or continue an unfinished training.

    Args:
        recipe: Recipe of the student.
        run: Where to store checkpoints; None stores nothing.

    Raises:
        InputError: The data, the run's folder or the training is not sound; see `open_run` and `fit`.
    """
    run = run or TrainingRun()
    if isinstance(recipe, TinyHDRecipe):
        return tinyhd.distil(recipe, run)
    if isinstance(recipe, QatRecipe):
        return qat.tune(recipe, run)
    assert isinstance(recipe, SkdRecipe), recipe
    return skd.distil(recipe, run)
