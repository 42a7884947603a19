"""The distillation for a few steps of each stage."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.core.errors import InputError
from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World, WorldFrame
from tests.conftest import Outcome
from trainer.data import synthetic_pairs as made
from trainer.data.gaze_model import gaze_density
from trainer.data.synthetic_pairs import SyntheticPairStream
from trainer.losses.saliency import hard_label, kl_cc
from trainer.models.student import Pair, SkdSettings, as_skd, load_student, raw_to_saliency
from trainer.recipes.loader import SkdRecipe, load_recipe
from trainer.training import skd
from trainer.training.loop import TrainingRun
from trainer.training.run import train

QUICK = {
    "world.width": "96", "world.height": "64", "world.pairs_per_scene": "2", "workers": "0",
    "teachers.steps": "2", "teachers.batch": "2", "teachers.imagenet": "false",
    "students.steps": "2", "students.batch": "4", "network.steps": "3", "network.batch": "4",
}  # fmt: skip


SKD = SkdSettings(32, "previous", "density")


def quick(name: str = "demo", **changes: str) -> SkdRecipe:
    recipe = load_recipe(name, {**QUICK, **{key.replace("__", "."): v for key, v in changes.items()}})
    assert isinstance(recipe, SkdRecipe)
    return recipe


def test_samples_are_prepared_pairs_with_a_density() -> None:
    recipe = quick()
    samples = itertools.islice(SyntheticPairStream(recipe.world, SKD, 0, teachers=True), 6)
    for sample in samples:
        assert sample["frame"].shape == sample["other"].shape == (3, 32, 32)
        assert sample["large_frame"].shape == (3, 64, 96)
        assert sample["frame"].abs().max() <= 1
        assert sample["density"].shape == (1, 32, 32)
        assert sample["density"].sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pair", ["previous", "next"])
def test_a_frame_has_its_own_density_and_the_right_neighbour(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "LENGTH", 4)  # so that the frame can be found again
    monkeypatch.setattr(made, "FIRST", 1)
    world, prepare = World(made.FIRST_TRAINING_SCENE, 96, 64, made.FPS), Preprocessing(32, 32)
    images = [torch.from_numpy(prepare(world.frame(index).image)[0]) for index in range(5)]
    densities = [torch.from_numpy(gaze_density(world, index, 32, 32))[None] for index in range(5)]
    sides = set()
    for sample in itertools.islice(
        SyntheticPairStream(quick().world, SkdSettings(32, pair, "density"), 0, teachers=False), 12
    ):
        for mirrored in (False, True):
            turned = [image.flip(-1) if mirrored else image for image in images]
            frame = sample["frame"]
            at = [i for i, image in enumerate(turned) if torch.allclose(image, frame, atol=1e-2)]
            if not at:
                continue
            (index,) = at
            sides.add(mirrored)
            neighbour = turned[index - 1 if pair == "previous" else index + 1]
            torch.testing.assert_close(sample["other"], neighbour, atol=1e-2, rtol=0)
            density = densities[index].flip(-1) if mirrored else densities[index]
            torch.testing.assert_close(sample["density"], density)
            break
        else:
            pytest.fail("a frame that is not of the scene")
    assert sides == {False, True}


def test_a_lag_reaches_back_by_as_much_a_third_more_or_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Told(World):
        def frame(self, index: int) -> WorldFrame:
            asked.append(index)
            return super().frame(index)

    monkeypatch.setattr(made, "World", Told)
    student = SkdSettings(32, "previous", "density", lag_s=0.3)
    for _ in itertools.islice(SyntheticPairStream(quick().world, student, 0, teachers=False), 6):
        pass
    gaps = {after - before for before, after in zip(asked[::2], asked[1::2], strict=True)}
    assert gaps == {2, 3, 4}


def test_a_neighbour_that_is_aligned_differs_by_what_moves_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "FIRST", 2)
    world = quick(world__width="256", world__height="144", world__twins="1.0").world
    gaps = {}
    for align in (False, True):
        student = SkdSettings(64, "previous", "density", 0.3, align)
        drawn = list(itertools.islice(SyntheticPairStream(world, student, 0, teachers=False), 24))
        gaps[align] = float(np.mean([(s["frame"] - s["other"]).abs().mean() for s in drawn]))
    assert gaps[True] < 0.5 * gaps[False]


def test_streams_and_workers_share_no_scene_and_none_is_an_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def told(seed: int, *size: int, twins: bool) -> World:
        seen.append(seed)
        return World(7, 64, 64, 10.0)

    monkeypatch.setattr(made, "World", told)
    for stream in range(4):
        for _ in itertools.islice(SyntheticPairStream(quick().world, SKD, stream, teachers=False), 3):
            pass
    assert len(set(seen)) == len(seen)
    assert min(seen) >= made.FIRST_TRAINING_SCENE


def test_every_early_pair_is_drawn_as_often_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "FIRST", 3)
    world = quick(world__reuse="4", world__pairs_per_scene="2").world
    samples = itertools.islice(SyntheticPairStream(world, SKD, 0, teachers=False), 3 * 2 * 4)
    drawn = Counter(round(float(sample["frame"].sum()), 1) for sample in samples)
    assert sorted(drawn.values()) == [4] * 6  # mirroring keeps the sum


def test_the_same_recipe_gives_the_same_student() -> None:
    first, second, third = (skd.distil(quick(seed=seed)) for seed in ("1", "1", "2"))
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    assert any(
        not torch.equal(third.network.state_dict()[key], value)
        for key, value in first.network.state_dict().items()
    )


def test_frozen_parts_stay_and_the_decoder_learns() -> None:
    recipe = quick(network__freeze="true", network__average="0.0")
    students = skd.StudentDistillation(recipe, None)
    joint = skd.JointTransfer(recipe, students)
    before = {key: value.clone() for key, value in joint.network.state_dict().items()}
    skd._fit("network", joint, {"network": skd._samples("network", recipe)}, recipe, None)
    changed = {
        key for key, value in joint.network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith("decoder.") for key in changed)


def test_each_student_learns_from_its_own_teacher_by_mu() -> None:
    recipe = quick(students__mu="0.75")
    teachers = skd.TeacherTraining(recipe).eval()
    students = skd.StudentDistillation(recipe, teachers).eval()
    batch = torch.utils.data.default_collate(
        list(itertools.islice(SyntheticPairStream(recipe.world, SKD, 0, teachers=True), 4))
    )
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
def test_a_cosine_of_few_steps_runs(steps: str) -> None:
    recipe = quick(teachers__steps="0", students__steps="0", network__steps=steps, network__batch="2")
    rates: list[float] = []
    skd.distil(recipe, TrainingRun(on_step=lambda progress: rates.append(progress.loss)))
    assert len(rates) == int(steps)


def test_mixed_precision_with_a_worker_runs() -> None:
    recipe = quick(mixed="true", workers="1", network__average="0.5")
    student = skd.distil(recipe)
    assert all(torch.isfinite(value).all() for value in student.network.state_dict().values())


def test_a_few_scenes_can_be_learnt() -> None:
    losses: list[float] = []
    recipe = quick(
        teachers__steps="0", students__steps="0", network__steps="60", network__batch="8",
        network__rate="1e-2", world__buffer="8", world__pairs_per_scene="8", world__reuse="1000",
    )  # fmt: skip
    skd.distil(recipe, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    assert len(losses) == 60
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_the_papers_recipe_runs(tmp_path: Path) -> None:
    stages: list[str] = []
    student = train(
        quick("paper-32"), TrainingRun(tmp_path, on_step=lambda progress: stages.append(progress.stage))
    )
    assert [stage for stage, _ in itertools.groupby(stages)] == ["teachers", "students", "network"]
    assert as_skd(student)[0].head == "density"
    assert (tmp_path / "network" / "metrics.csv").exists()
    assert list((tmp_path / "network" / "tensorboard").iterdir())


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
        skd.distil(recipe)


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
        (["demo", "--out", "/proc/none/s.safetensors"], "cannot write /proc/none/s.safetensors"),
    ],
)
def test_bad_use_is_one_clear_line(
    command: Callable[..., Outcome], arguments: list[str], message: str
) -> None:
    outcome = command("train", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_network_goes_on_from_a_students_weights_at_another_resolution() -> None:
    none = {"teachers.steps": "0", "students.steps": "0", "students.mu": "0"}
    recipe = load_recipe("skd-128", {**QUICK, **none, "network.steps": "1", "network.rate": "1e-9"})
    student = train(recipe)
    settings, network = as_skd(student)
    assert settings.resolution == 128
    for name, parameter in as_skd(load_student("skd-64"))[1].named_parameters():
        torch.testing.assert_close(network.get_parameter(name), parameter, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="no student 'none'"):
        train(load_recipe("skd-128", {**QUICK, **none, "network.start": '"none"'}))
    with pytest.raises(InputError, match="network.start replaces stage 1"):
        quick("skd-64", network__start='"skd-64"')


def test_the_network_may_learn_from_the_teachers_mean_map() -> None:
    recipe = quick(
        network__soft="0.25", network__taught_by='"teachers"', network__freeze="false", loss='"kl_cc"',
        students__steps="0", students__mu="0",
    )  # fmt: skip
    teachers = skd.TeacherTraining(recipe)
    joint = skd.JointTransfer(recipe, None, teachers).eval()
    samples = skd._samples("network", recipe)
    assert isinstance(samples, SyntheticPairStream)
    batch = {name: value[None] for name, value in next(iter(samples)).items()}
    raw = joint.network(batch["frame"], batch["other"])
    soft = torch.stack(teachers.eval().maps(batch)).mean(dim=0)
    expected = 0.75 * kl_cc(raw, hard_label(batch["density"])) + 0.25 * kl_cc(raw, soft)
    torch.testing.assert_close(joint.loss(batch), expected)
    assert not any(name.startswith("_teachers") for name, _ in joint.named_parameters())
    train(recipe)
    with pytest.raises(InputError, match="by teachers needs teachers"):
        quick(network__soft="0.25", network__taught_by='"teachers"', teachers__steps="0", students__mu="0")
