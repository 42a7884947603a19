"""The distillation for a few steps of each stage."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edge.errors import InputError
from tests.conftest import Outcome
from trainer import distil
from trainer.made import MadeClips
from trainer.models.student import load_student
from trainer.recipes import Recipe, load_recipe

QUICK = {
    "world.width": "96", "world.height": "64", "world.pairs_per_scene": "2", "world.workers": "0",
    "teachers.steps": "2", "teachers.batch": "2", "teachers.imagenet": "false",
    "students.steps": "2", "students.batch": "4", "network.steps": "3", "network.batch": "4",
}  # fmt: skip


def quick(name: str = "demo", **changes: str) -> Recipe:
    return load_recipe(name, {**QUICK, **{key.replace("__", "."): v for key, v in changes.items()}})


def test_samples_are_prepared_pairs_with_a_density() -> None:
    recipe = quick()
    samples = itertools.islice(MadeClips(recipe.world, 32, "previous", 0, teachers=True), 6)
    for sample in samples:
        assert sample["frame"].shape == sample["other"].shape == (3, 32, 32)
        assert sample["large_frame"].shape == (3, 64, 96)
        assert sample["frame"].abs().max() <= 1
        assert sample["density"].shape == (1, 32, 32)
        assert sample["density"].sum().item() == pytest.approx(1, abs=1e-3)


def test_the_neighbour_is_before_or_after() -> None:
    world = quick().world
    streams = [iter(MadeClips(world, 32, pair, 0, teachers=False)) for pair in ("previous", "next")]
    before, after = (next(stream) for stream in streams)
    assert torch.equal(before["frame"], after["other"])
    assert torch.equal(before["other"], after["frame"])


def test_the_same_recipe_gives_the_same_student() -> None:
    first, second, third = (distil.distil(quick(seed=seed)) for seed in ("1", "1", "2"))
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    assert any(
        not torch.equal(third.network.state_dict()[key], value)
        for key, value in first.network.state_dict().items()
    )


def test_frozen_parts_stay_and_the_decoder_learns() -> None:
    recipe = quick(network__freeze="true", network__average="0.0")
    students = distil.StudentDistillation(recipe, None)
    joint = distil.JointTransfer(recipe, students)
    before = {key: value.clone() for key, value in joint.network.state_dict().items()}
    distil._fit("network", joint, recipe, recipe.network, None, lambda progress: None)
    changed = {
        key for key, value in joint.network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith("decoder.") for key in changed)


def test_the_soft_label_counts_by_mu() -> None:
    recipe = quick(students__mu="0.75")
    teachers = distil.TeacherTraining(recipe).eval()
    students = distil.StudentDistillation(recipe, teachers).eval()
    batch = torch.utils.data.default_collate(
        list(itertools.islice(MadeClips(recipe.world, 32, "previous", 0, teachers=True), 4))
    )
    raws = [network(batch["frame"], batch["other"]) for network in (students.spatial, students.temporal)]
    hard = sum(students._loss(raw, batch["density"]) for raw in raws)
    soft = sum(students._loss(raw, soft) for raw, soft in zip(raws, teachers.maps(batch), strict=True))
    torch.testing.assert_close(students.loss(batch), 0.75 * soft + 0.25 * hard)
    assert not any(name.startswith("_teachers") for name, _ in students.named_parameters())


def test_a_few_scenes_can_be_learnt() -> None:
    losses: list[float] = []
    recipe = quick(
        teachers__steps="0", students__steps="0", network__steps="60", network__batch="8",
        network__rate="1e-2", world__buffer="8", world__pairs_per_scene="8", world__reuse="1000",
    )  # fmt: skip
    distil.distil(recipe, on_step=lambda progress: losses.append(progress.loss))
    assert len(losses) == 60
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_the_papers_recipe_runs(tmp_path: Path) -> None:
    stages: list[str] = []
    student = distil.distil(quick("paper-32"), tmp_path, lambda progress: stages.append(progress.stage))
    assert [stage for stage, _ in itertools.groupby(stages)] == ["teachers", "students", "network"]
    assert student.settings.head == "density"
    assert (tmp_path / "network" / "metrics.csv").exists()


def test_a_loss_that_explodes_is_named() -> None:
    recipe = quick(
        loss="mse",
        teachers__steps="0",
        students__steps="0",
        network__steps="30",
        network__rate="1.0",
    )
    object.__setattr__(recipe.network, "rate", 1e30)
    with pytest.raises(InputError, match="lower the stage's rate"):
        distil.distil(recipe)


def test_the_command_writes_a_student(command: Callable[..., Outcome], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    changes = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    outcome = command("train", "demo", "--out", out, *changes)
    assert outcome.code == 0, outcome.err
    assert "318,498 parameters" in outcome.out
    assert load_student(out).trained["recipe"]["network"]["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--out", "s.pt"], "expected a name ending in .safetensors"),
        (["demo", "--out", "s.safetensors", "--set", "steps"], "expected KEY=VALUE"),
        (["nothing", "--out", "s.safetensors"], "no recipe 'nothing'"),
    ],
)
def test_bad_use_is_one_clear_line(
    command: Callable[..., Outcome], arguments: list[str], message: str
) -> None:
    outcome = command("train", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
