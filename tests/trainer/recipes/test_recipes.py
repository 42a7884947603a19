"""Recipes: the shipped ones, changes, and reports of invalid values."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.errors import InputError
from trainer.recipes.loader import SHIPPED_RECIPES, QatRecipe, SkdRecipe, TinyHDRecipe, load_recipe
from trainer.recipes.tinyhd import StreamTable, TinyHDTable


@pytest.mark.parametrize("path", sorted(SHIPPED_RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_is_valid(path: Path) -> None:
    names = {"student.weights": '"skd-64"', "student.release": '"skd-64"'} if path.stem == "qat" else {}
    recipe = load_recipe(path.stem, names)
    if isinstance(recipe, QatRecipe):
        assert list(recipe.stages) == ["tuning"]
        return
    if isinstance(recipe, TinyHDRecipe) and isinstance(recipe.student, StreamTable):
        stages = {
            "stream": [],
            "stream-plain": [],
            f"stream-{recipe.student.height}": ["teacher", "assistant-rc1"],
        }
        assert recipe.name == path.stem
        assert list(recipe.stages) == [*stages[recipe.name], "student"]
        return
    if isinstance(recipe, TinyHDRecipe):
        assert isinstance(recipe.student, TinyHDTable)
        assert recipe.name == path.stem == f"tinyhd-{recipe.student.variant.lower()}-rc{recipe.student.rc}"
        assert (
            list(recipe.stages)
            == {
                1: ["teacher", "student"],
                2: ["teacher", "assistant-rc1", "student"],
                4: ["teacher", "assistant-rc1", "assistant-rc2", "student"],
                8: [],
            }[recipe.student.rc]
        )
        assert all(table.schedule == "steps" for table in recipe.stages.values())
        return
    assert isinstance(recipe, SkdRecipe)
    assert str(recipe.student.resolution) in recipe.name.split("-")
    assert recipe.settings().head == ("density" if recipe.loss == "mse" else "log_density")


@pytest.mark.parametrize("name", ["skd-96-motion", "skd-128-motion"])
def test_motion_students_have_the_same_scenes_and_teachers(name: str) -> None:
    small, large = load_recipe("skd-64-motion"), load_recipe(name)
    assert isinstance(small, SkdRecipe)
    assert isinstance(large, SkdRecipe)
    # The larger two were trained before there were scenes without targets.
    world = large.world.model_copy(update={"empty": small.world.empty})
    assert (world, large.teachers, large.seed) == (small.world, small.teachers, small.seed)


def test_changes_override_the_file() -> None:
    recipe = load_recipe("skd-64", {"network.steps": "7", "loss": "mse", "students.mu": "0.25"})
    assert isinstance(recipe, SkdRecipe)
    assert (recipe.network.steps, recipe.loss, recipe.students.mu) == (7, "mse", 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.step": "7"}, "network.step: Extra inputs are not permitted"),
        ({"network.steps": "-1"}, "network.steps: .*greater than or equal to 0, got -1"),
        ({"network.steps": "0"}, "nothing would be trained"),
        ({"students.steps": "0"}, "no student learns from them"),
        ({"students.mu": "0"}, "no student learns from them"),
        ({"teachers.steps": "0", "students.steps": "0", "network.freeze": "true"}, "freeze needs students"),
        ({"world.width": "100000"}, "world.width: .*less than or equal to 4096"),
        ({"loss": "l1"}, "loss: .*'mse', 'kl_cc', 'cc' or 'nss', got 'l1'"),
        ({"student.resolution": "60"}, "student.resolution must be one of 32, 64, 96, 128, 256"),
        ({"teachers.steps": "0"}, "no soft labels to learn from"),
        ({"student.lag_s": "3"}, "student.lag_s: .*less than or equal to 2"),
        ({"student.lag_s": "0.3", "student.pair": "next"}, "lag_s needs student.pair"),
        ({"student.align": "true"}, "student.align needs student.lag_s"),
        ({"name.first": "1"}, "name is not a table of the recipe"),
    ],
)
def test_invalid_value_of_an_skd_recipe_is_reported(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("skd-64", changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.variant": "L"}, "student.variant: .*'S' or 'M', got 'L'"),
        ({"student.height": "100"}, "student.height: .*multiple of 32, got 100"),
        ({"student.decoders": "[]"}, "one or more of D1, D2, D3, each once"),
        ({"student.decoders": "['D1', 'D1']"}, "one or more of D1, D2, D3, each once"),
        ({"student.decoders": "['D4']"}, "student.decoders.0: .*'D1', 'D2' or 'D3', got 'D4'"),
        ({"data.kind": "kitti"}, "data.kind: .*'videos' or 'bags', got 'kitti'"),
        ({"data.kind": "dhf1k"}, "data.kind dhf1k needs data.root"),
        ({"data.root": "."}, "data.root, data.split and data.maps need a data set: set data.kind"),
        ({"data.kind": "videos", "data.root": "."}, "videos have no ground truth to train the teacher on"),
        ({"teacher.steps": "0"}, "teacher.weights must name a trained teacher"),
        ({"assistants.rc": "[2, 1]"}, "assistants.rc must increase and stay below the student's rc 4"),
        ({"assistants.rc": "[1, 4]"}, "assistants.rc must increase and stay below the student's rc 4"),
        ({"assistants.rc": "[]"}, "assistants need at least one rc, and steps"),
        ({"distillation.steps": "0"}, "nothing would be trained"),
        ({"world.frames": "15"}, "world.frames must be 16 or more"),
    ],
)
def test_invalid_value_of_a_tinyhd_recipe_is_reported(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("tinyhd-s-rc4", changes)
    assert "\n" not in str(caught.value)


def test_missing_and_invalid_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe 'skd-7'.*shipped recipe: demo"):
        load_recipe("skd-7")
    path = tmp_path / "r.toml"
    path.write_text("name = ")
    with pytest.raises(InputError, match="is not valid TOML"):
        load_recipe(path)
    path.write_text('name = "x"')
    with pytest.raises(InputError, match="seed: Field required"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.height": "192"}, "student.height and student.width must be 192 x 256 or 96 x 128"),
        ({"student.height": "100"}, "student.height: Input should be 96 or 192, got 100"),
        ({"student.rc": "8"}, "student.rc: Input should be 1, 2 or 4, got 8"),
        ({"assistants.rc": "[4]"}, "assistants.rc must increase and stay below the student's rc 4"),
        ({"student.align": "true"}, "student.align needs student.lag_s"),
        ({"student.lag_s": "0.3"}, "student.align needs student.lag_s"),
        (
            {"student.align": "true", "student.lag_s": "1.6"},
            "student.lag_s: Input should be less than or equal to 1.5, got 1.6",
        ),
        ({"student.kind": "'other'"}, "student.kind 'other': expected one of skd, tinyhd, stream"),
    ],
)
def test_invalid_value_of_a_streaming_recipe_is_reported(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("stream-96", changes)
