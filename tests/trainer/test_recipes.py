from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import InputError
from trainer.recipes import FOLDER, SkdRecipe, load_recipe


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_sound(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert isinstance(recipe, SkdRecipe)
    assert recipe.name.endswith(str(recipe.student.resolution))
    assert recipe.settings().head == ("density" if recipe.loss == "mse" else "log_density")


def test_changes_are_checked_like_the_file() -> None:
    recipe = load_recipe("skd-64", {"network.steps": "7", "loss": "mse", "students.mu": "0.25"})
    assert isinstance(recipe, SkdRecipe)
    assert (recipe.network.steps, recipe.loss, recipe.students.mu) == (7, "mse", 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.step": "7"}, "network.step: Extra inputs are not permitted"),
        ({"network.steps": "-1"}, "network.steps: .*greater than or equal to 0, got -1"),
        ({"network.steps": "0"}, "nothing to keep"),
        ({"students.steps": "0"}, "no student learns from them"),
        ({"students.mu": "0"}, "no student learns from them"),
        ({"teachers.steps": "0", "students.steps": "0", "network.freeze": "true"}, "freeze needs students"),
        ({"world.width": "100000"}, "world.width: .*less than or equal to 4096"),
        ({"loss": "l1"}, "loss: .*'mse', 'kl_cc', 'cc' or 'nss', got 'l1'"),
        ({"student.resolution": "60"}, "student.resolution must be one of 32, 64, 96, 128, 256"),
        ({"teachers.steps": "0"}, "no soft labels to learn from"),
        ({"student.lag_s": "3"}, "student.lag_s: .*less than or equal to 2"),
        ({"student.lag_s": "0.3", "student.pair": "next"}, "lag_s needs student.pair"),
        ({"name.first": "1"}, "name is no table"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("skd-64", changes)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe 'skd-7'.*shipped recipe: demo"):
        load_recipe("skd-7")
    path = tmp_path / "r.toml"
    path.write_text("name = ")
    with pytest.raises(InputError, match="is not TOML"):
        load_recipe(path)
    path.write_text('name = "x"')
    with pytest.raises(InputError, match="seed: Field required"):
        load_recipe(path)
