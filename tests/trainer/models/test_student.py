"""Students on disk: round trip, the shipped student, and damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edge.core.errors import InputError
from tests.support.training import assert_equal_weights
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import SkdSettings, Student, TinyHDSettings, as_skd, as_tinyhd, load_student
from trainer.recipes.loader import SkdRecipe, load_recipe


@pytest.fixture
def student() -> Student:
    settings = SkdSettings(32, "next", "density")
    return Student("small", settings, SpatiotemporalNetwork().eval(), {"seed": 3})


def test_saved_student_loads_unchanged_under_the_name_of_its_file(student: Student, tmp_path: Path) -> None:
    student.save(tmp_path / "s.safetensors")
    loaded = load_student(tmp_path / "s.safetensors")
    assert (loaded.name, loaded.settings, loaded.trained) == ("s", student.settings, {"seed": 3})
    assert_equal_weights(loaded.network, student.network)
    assert not loaded.network.training


def test_saved_tinyhd_student_loads_unchanged(tmp_path: Path) -> None:
    settings = TinyHDSettings("M", 8, ("D2", "D1"), 64, 96)
    student = Student("clips", settings, settings.build().eval(), {})
    student.save(tmp_path / "s.safetensors")
    loaded = load_student(tmp_path / "s.safetensors")
    assert loaded.settings == settings
    assert (settings.delay_frames, TinyHDSettings("S").delay_frames) == (15, 0)
    assert as_tinyhd(loaded)[1].maps == 16
    assert_equal_weights(loaded.network, student.network)
    with pytest.raises(InputError, match="student s is of kind tinyhd; expected skd"):
        as_skd(loaded)
    with pytest.raises(InputError, match=r"frames of 64 x 100; expected multiples of 32"):
        TinyHDSettings("M", width=100, height=64)


@pytest.mark.parametrize("key", ["decoders.D1.branches.0.0.0.weight", "decoders.D2.laterals.0.0.weight"])
def test_tinyhd_student_with_decoder_widths_of_an_earlier_version_is_refused(
    tmp_path: Path, key: str
) -> None:
    settings = TinyHDSettings("S", 8)
    path = tmp_path / "s.safetensors"
    metadata = {
        "schema": "1", "name": "old", "trained": "{}", "student": json.dumps(vars(settings))
    }  # fmt: skip
    save_file({key: torch.zeros(1)}, path, metadata)
    with pytest.raises(
        InputError, match=r"decoder widths of an earlier version; .* train it again"
    ) as caught:
        load_student(path)
    assert "\n" not in str(caught.value)


def test_shipped_student_stores_the_record_of_its_training() -> None:
    student = load_student("skd-64")
    assert student.settings.delay_frames == 0
    stored = student.trained["recipe"]
    del stored["world"]["workers"]  # this key was in the table world when the student was trained
    recipe = SkdRecipe.model_validate(stored)
    assert recipe == load_recipe("skd-64", {"mixed": "true"})
    assert min(recipe.teachers.steps, recipe.students.steps, recipe.network.steps) > 0
    assert student.trained["data"] == "made world"
    assert student.trained["commit"]


def _set_nan(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    tensors["trunk.0.0.weight"][0] = float("nan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set_nan, r"weight trunk\.0\.0\.weight is not finite"),
        (lambda tensors, metadata: metadata.update(schema="9"), "student schema '9'"),
        (lambda tensors, metadata: tensors.pop("trunk.0.0.weight"), "is not a student of aerogaze train"),
        (lambda tensors, metadata: metadata.update(student="{}"), "is not a student of aerogaze train"),
        (lambda tensors, metadata: metadata.pop("student"), "is not a student of aerogaze train"),
        (lambda tensors, metadata: metadata.update(trained="{"), "is not a student of aerogaze train"),
        (
            lambda tensors, metadata: metadata.update(student=metadata["student"].replace("next", "last")),
            "no SKD student has pair 'last'",
        ),
        (
            lambda tensors, metadata: metadata.update(
                student=metadata["student"].replace("}", ', "lag_s": 0.3}')
            ),
            "paired with the next frame cannot lag by 0.3 s",
        ),
    ],
)
def test_damaged_file_is_reported(
    student: Student, tmp_path: Path, damage: Callable[..., object], message: str
) -> None:
    path = tmp_path / "s.safetensors"
    student.save(path)
    tensors = load_file(path)
    metadata = {
        "schema": "1",
        "name": "small",
        "trained": "{}",
        "student": '{"kind": "skd", "resolution": 32, "pair": "next", "head": "density"}',
    }
    damage(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=message):
        load_student(path)


def test_missing_student_and_other_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no student 'unknown'.*shipped student: skd-"):
        load_student("unknown")
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is not a safetensors file"):
        load_student(path)
