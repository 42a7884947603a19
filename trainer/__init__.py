"""Training of saliency students: networks, recipes, data sets, distillation and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from trainer.datasets.factory import open_dataset
    from trainer.evaluation.scores import evaluate_predictor
    from trainer.inference.predictors import open_predictor
    from trainer.models.student import Student, load_student
    from trainer.recipes.loader import load_recipe
    from trainer.training.run import train

__all__ = [
    "Student",
    "evaluate_predictor",
    "load_recipe",
    "load_student",
    "open_dataset",
    "open_predictor",
    "train",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Student": "trainer.models.student",
        "evaluate_predictor": "trainer.evaluation.scores",
        "load_recipe": "trainer.recipes.loader",
        "load_student": "trainer.models.student",
        "open_dataset": "trainer.datasets.factory",
        "open_predictor": "trainer.inference.predictors",
        "train": "trainer.training.run",
    },
)
