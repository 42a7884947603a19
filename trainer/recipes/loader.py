"""Reader of recipes: TOML files that say how a student is trained, validated on load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge.core.errors import InputError
from edge.core.toml_reader import read_toml, tomllib
from trainer.recipes.qat import QatRecipe
from trainer.recipes.skd import SkdRecipe
from trainer.recipes.tables import Recipe, StageTable, WorldTable
from trainer.recipes.tinyhd import TinyHDRecipe

__all__ = [
    "RECIPE_BY_KIND",
    "QatRecipe",
    "Recipe",
    "SkdRecipe",
    "StageTable",
    "TinyHDRecipe",
    "WorldTable",
    "load_recipe",
]

SHIPPED_RECIPES = Path(__file__).parent / "shipped"

RECIPE_BY_KIND: dict[str, type[Recipe]] = {
    "skd": SkdRecipe,
    "tinyhd": TinyHDRecipe,
    "stream": TinyHDRecipe,
    "qat": QatRecipe,
}
"""Recipe class of each kind of student."""


def load_recipe(name: str | Path, changes: dict[str, str] | None = None) -> Recipe:
    """Load a recipe from a .toml file, or a shipped recipe by its name.

    Args:
        name: Path of a file, or name of a shipped recipe.
        changes: TOML values by dotted keys, such as `network.steps` and `200`.

    Raises:
        InputError: No such recipe, invalid TOML, an unknown key or a value out of range.
    """
    is_path = Path(name).is_file() or Path(name).is_fifo()
    path = Path(name) if is_path else SHIPPED_RECIPES / f"{name}.toml"
    if not is_path and not path.is_file():
        names = ", ".join(sorted(p.stem for p in SHIPPED_RECIPES.glob("*.toml")))
        raise InputError(f"no recipe {str(name)!r}; expected a .toml file or a shipped recipe: {names}")
    document = read_toml(
        path, "a recipe: change a shipped one with --set instead, for example network.steps=200"
    )
    try:
        for key, value in (changes or {}).items():
            _set_value(document, key, value)
        return _recipe_class(document).model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {_format_first(error)}") from None


def _format_first(error: ValidationError) -> str:
    """Return key, problem and value of the first validation error."""
    first = error.errors()[0]
    # pydantic adds the kind of student to the location, because it tells the tables apart by that.
    location = [part for index, part in enumerate(first["loc"]) if index != 1 or part not in RECIPE_BY_KIND]
    key = ".".join(map(str, location))
    problem = first["msg"].removeprefix("Value error, ")
    value = f", got {first['input']!r}" if key and not isinstance(first["input"], dict) else ""
    return f"{key}{': ' if key else ''}{problem}{value}"


def _recipe_class(document: dict[str, Any]) -> type[Recipe]:
    student = document.get("student")
    kind = student.get("kind", "skd") if isinstance(student, dict) else "skd"
    if kind not in RECIPE_BY_KIND:
        raise InputError(f"student.kind {kind!r}: expected one of {', '.join(RECIPE_BY_KIND)}")
    return RECIPE_BY_KIND[kind]


def _set_value(document: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    table = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InputError(
                f"--set {key}: {name} is not a table of the recipe; expected a key such as network.steps"
            )
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value
