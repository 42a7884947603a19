"""Distillation of SKD students: losses, and a few steps of each stage."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.support.training import SHORT_SKD, assert_equal_weights, set_options, short_skd_recipe
from trainer.losses.saliency import hard_label, kl_cc
from trainer.models.student import as_skd, load_student, raw_to_saliency
from trainer.recipes.loader import SkdRecipe, load_recipe
from trainer.training import skd
from trainer.training.loop import TrainingRun
from trainer.training.pool import open_scenes
from trainer.training.run import train


def draw(recipe: SkdRecipe, stage: str, count: int) -> list[dict[str, Tensor]]:
    """Return samples of a stage."""
    samples = skd._samples(stage, recipe, open_scenes(recipe, recipe.world, None))
    return [samples[index] for index in range(count)]


@pytest.mark.first
def test_same_recipe_gives_the_same_student() -> None:
    first, second, third = (skd.distil(short_skd_recipe(seed=seed)) for seed in ("1", "1", "2"))
    assert_equal_weights(second.network, first.network)
    other = third.network.state_dict()
    assert any(not torch.equal(other[key], value) for key, value in first.network.state_dict().items())


def test_frozen_parts_do_not_change_while_the_decoder_learns() -> None:
    recipe = short_skd_recipe(network__freeze="true", network__average="0.0")
    students = skd.StudentDistillation(recipe, None)
    joint = skd.JointTransfer(recipe, students)
    before = {key: value.clone() for key, value in joint.network.state_dict().items()}
    pool = open_scenes(recipe, recipe.world, None)
    skd._fit("network", joint, {"network": skd._samples("network", recipe, pool)}, recipe, TrainingRun())
    changed = {
        key for key, value in joint.network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith("decoder.") for key in changed)


def test_student_loss_weights_its_teacher_by_mu() -> None:
    recipe = short_skd_recipe(students__mu="0.75")
    teachers = skd.TeacherTraining(recipe).eval()
    students = skd.StudentDistillation(recipe, teachers).eval()
    batch = torch.utils.data.default_collate(draw(recipe, "students", 4))
    expected = torch.zeros(())
    for student, teacher in (
        (students.spatial, teachers.spatial),
        (students.temporal, teachers.temporal),
    ):
        raw = student(batch["frame"], batch["other"])
        large = teacher(batch["large_frame"], batch["large_other"])
        large = torch.nn.functional.interpolate(large, size=(32, 32), mode="bilinear", antialias=True)
        soft = raw_to_saliency(large, "log_density")
        expected = expected + 0.75 * kl_cc(raw, soft) + 0.25 * kl_cc(raw, batch["density"])
    torch.testing.assert_close(students.loss(batch), expected, atol=1e-4, rtol=1e-4)
    assert not any(name.startswith("_teachers") for name, _ in students.named_parameters())


@pytest.mark.parametrize("steps", ["1", "2", "10"])
def test_cosine_schedule_of_few_steps_runs(steps: str) -> None:
    recipe = short_skd_recipe(
        teachers__steps="0", students__steps="0", network__steps=steps, network__batch="2"
    )
    losses: list[float] = []
    skd.distil(recipe, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    assert len(losses) == int(steps)


def test_mixed_precision_with_a_worker_gives_finite_weights() -> None:
    recipe = short_skd_recipe(mixed="true", workers="1", network__average="0.5")
    student = skd.distil(recipe)
    assert all(torch.isfinite(value).all() for value in student.network.state_dict().values())


def test_loss_falls_when_few_scenes_are_learnt() -> None:
    losses: list[float] = []
    recipe = short_skd_recipe(
        teachers__steps="0", students__steps="0", network__steps="60", network__batch="8",
        network__rate="1e-2", world__scenes="1", world__augment="false",
    )  # fmt: skip
    skd.distil(recipe, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    assert len(losses) == 60
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_recipe_of_the_paper_runs_its_three_stages(tmp_path: Path) -> None:
    stages: list[str] = []
    student = train(
        short_skd_recipe("paper-32"),
        TrainingRun(tmp_path, on_step=lambda progress: stages.append(progress.stage)),
    )
    assert [stage for stage, _ in itertools.groupby(stages)] == ["teachers", "students", "network"]
    assert as_skd(student)[0].head == "density"
    assert (tmp_path / "network" / "metrics.csv").exists()
    assert list((tmp_path / "network" / "tensorboard").iterdir())


def test_exploding_loss_is_reported() -> None:
    recipe = short_skd_recipe(
        loss="mse",
        teachers__steps="0",
        students__steps="0",
        network__steps="30",
        network__rate="1.0",
    )
    object.__setattr__(recipe.network, "rate", 1e30)
    with pytest.raises(InputError, match="lower the stage's rate"):
        skd.distil(recipe)


def test_command_writes_a_student(command: Callable[..., Outcome], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    outcome = command("train", "demo", "--out", out, *set_options(SHORT_SKD))
    assert outcome.code == 0, outcome.err
    assert "318,498 parameters" in outcome.out
    assert outcome.out.splitlines()[-1] == f"next: aerogaze export {out} --frames SOURCE --out RELEASE"
    assert load_student(out).trained["recipe"]["network"]["steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--out", "s.pt"], "expected a name ending in .safetensors"),
        (["demo", "--out", "s.safetensors", "--set", "steps"], "expected KEY=VALUE"),
        (["nothing", "--out", "s.safetensors"], "no recipe 'nothing'"),
        (["demo", "--out", "/proc/none/s.safetensors"], "cannot write /proc/none/s.safetensors"),
    ],
)
def test_invalid_use_is_reported_in_one_line(
    command: Callable[..., Outcome], arguments: list[str], message: str
) -> None:
    outcome = command("train", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_network_starts_from_a_student_of_another_resolution() -> None:
    no_stages = {"teachers.steps": "0", "students.steps": "0", "students.mu": "0"}
    recipe = load_recipe("skd-128", {**SHORT_SKD, **no_stages, "network.steps": "1", "network.rate": "1e-9"})
    student = train(recipe)
    settings, network = as_skd(student)
    assert settings.resolution == 128
    for name, parameter in as_skd(load_student("skd-64"))[1].named_parameters():
        torch.testing.assert_close(network.get_parameter(name), parameter, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="no student 'none'"):
        train(load_recipe("skd-128", {**SHORT_SKD, **no_stages, "network.start": '"none"'}))
    with pytest.raises(InputError, match=r"network\.start replaces stage 1"):
        short_skd_recipe("skd-64", network__start='"skd-64"')


def test_stages_after_the_teachers_learn_from_maps_that_are_computed_once(tmp_path: Path) -> None:
    recipe = short_skd_recipe(network__soft="0.5", network__taught_by='"teachers"', network__freeze="false")
    progress: list[tuple[int, int]] = []
    run = TrainingRun(tmp_path, on_labels=lambda done, total: progress.append((done, total)))
    first = skd.distil(recipe, run)
    (folder,) = (tmp_path / "teachers").glob("maps-*")
    assert progress == [(done, len(list(folder.iterdir()))) for done in range(len(progress))]
    progress.clear()
    for stage in ("students", "network"):
        shutil.rmtree(tmp_path / stage)
    second = skd.distil(recipe, run)
    assert progress == []
    assert_equal_weights(second.network, first.network)
    # Maps of other weights are never taken for those of these teachers.
    shutil.rmtree(tmp_path / "teachers")
    shutil.rmtree(tmp_path / "network")
    (tmp_path / "recipe.json").unlink()
    skd.distil(recipe.model_copy(update={"seed": recipe.seed + 1}), run)
    (other,) = (tmp_path / "teachers").glob("maps-*")
    assert other.name != folder.name


def test_teachers_learn_from_scenes_with_targets_alone() -> None:
    densities = {
        empty: [sample["density"] for sample in draw(short_skd_recipe(world__empty=empty), "teachers", 4)]
        for empty in ("0.0", "1.0")
    }
    torch.testing.assert_close(densities["1.0"], densities["0.0"])


def test_merged_weights_are_the_mean_of_the_trained_and_the_named_student(tmp_path: Path) -> None:
    short = {"teachers__steps": "0", "students__steps": "0", "students__mu": "0"}
    trained = skd.distil(short_skd_recipe(**short))
    other = skd.distil(short_skd_recipe(**short, seed="2"))
    path = tmp_path / "other.safetensors"
    other.save(path)
    merged = skd.distil(short_skd_recipe(**short, network__merge=f'"{path}"'))
    both = (trained.network.state_dict(), other.network.state_dict())
    for name, value in merged.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (both[0][name] + both[1][name]) / 2)
    with pytest.raises(InputError, match=r"network\.merge skd-64-motion-plain has other settings"):
        skd.distil(short_skd_recipe(**short, network__merge='"skd-64-motion-plain"'))


def test_network_loss_uses_the_mean_map_of_the_teachers() -> None:
    recipe = short_skd_recipe(
        network__soft="0.25", network__taught_by='"teachers"', network__freeze="false", loss='"kl_cc"',
        students__steps="0", students__mu="0",
    )  # fmt: skip
    teachers = skd.TeacherTraining(recipe)
    joint = skd.JointTransfer(recipe, None, teachers).eval()
    (sample,) = draw(recipe, "network", 1)
    batch = {name: value[None] for name, value in sample.items()}
    raw = joint.network(batch["frame"], batch["other"])
    soft = torch.stack(teachers.eval().maps(batch)).mean(dim=0)
    expected = 0.75 * kl_cc(raw, hard_label(batch["density"])) + 0.25 * kl_cc(raw, soft)
    torch.testing.assert_close(joint.loss(batch), expected)
    assert not any(name.startswith("_teachers") for name, _ in joint.named_parameters())
    train(recipe)
    with pytest.raises(InputError, match="by teachers needs teachers"):
        short_skd_recipe(
            network__soft="0.25", network__taught_by='"teachers"', teachers__steps="0", students__mu="0"
        )
