"""Recipes: how a student is trained, as TOML, checked on load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml, tomllib
from trainer.recipes.qat import QatRecipe
from trainer.recipes.skd import SkdRecipe, SkdWorldTable
from trainer.recipes.tables import Recipe, StageTable
from trainer.recipes.tinyhd import TinyHDRecipe

__all__ = [
    "RECIPE_BY_KIND",
    "QatRecipe",
    "Recipe",
    "SkdRecipe",
    "SkdWorldTable",
    "StageTable",
    "TinyHDRecipe",
    "load_recipe",
]

SHIPPED_RECIPES = Path(__file__).parent / "shipped"

RECIPE_BY_KIND: dict[str, type[Recipe]] = {
    "skd": SkdRecipe,
    "tinyhd": TinyHDRecipe,
    "stream": TinyHDRecipe,
    "qat": QatRecipe,
}
"""The recipe of each kind of student."""


def load_recipe(name: str | Path, changes: dict[str, str] | None = None) -> Recipe:
    """Read a recipe from a .toml file or by a shipped recipe's name.

    `changes` maps dotted keys to TOML values, as `network.steps` to `200`.

    Raises:
        InputError: no such recipe, bad TOML, a key that is unknown or a value out of range.
    """
    path = Path(name) if Path(name).is_file() else SHIPPED_RECIPES / f"{name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED_RECIPES.glob("*.toml")))
        raise InputError(f"no recipe {str(name)!r}; expected a .toml file or a shipped recipe: {names}")
    document = read_toml(path, "a recipe, as docs/train.md shows one")
    try:
        for key, value in (changes or {}).items():
            _set_value(document, key, value)
        recipe = _recipe_class(document).model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = [part for at, part in enumerate(first["loc"]) if at != 1 or part not in RECIPE_BY_KIND]
        where = ".".join(map(str, place))  # less the kind, by which pydantic tells students' tables apart
        said = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r}" if where and not isinstance(first["input"], dict) else ""
        raise InputError(f"{path}: {where}{': ' if where else ''}{said}{got}") from None
    return recipe


def _recipe_class(document: dict[str, Any]) -> type[Recipe]:
    student = document.get("student")
    kind = student.get("kind", "skd") if isinstance(student, dict) else "skd"
    if kind not in RECIPE_BY_KIND:
        raise InputError(f"student.kind {kind!r}: expected one of {', '.join(RECIPE_BY_KIND)}")
    return RECIPE_BY_KIND[kind]


def _set_value(document: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    place = document
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {key}: {table} is no table of the recipe")
    try:
        place[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        place[last] = value
