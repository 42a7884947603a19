"""Distillation of SKD students: samples, losses, and a few steps of each stage."""

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
from tests.support.training import SHORT_SKD, set_options, short_skd_recipe
from trainer.data import synthetic_pairs
from trainer.data.gaze_model import gaze_density
from trainer.data.synthetic_pairs import SyntheticPairStream
from trainer.losses.saliency import hard_label, kl_cc
from trainer.models.student import Pair, SkdSettings, as_skd, load_student, raw_to_saliency
from trainer.recipes.loader import load_recipe
from trainer.training import skd
from trainer.training.loop import TrainingRun
from trainer.training.run import train

SKD = SkdSettings(32, "previous", "density")


def test_synthetic_samples_are_preprocessed_pairs_with_a_density() -> None:
    recipe = short_skd_recipe()
    samples = itertools.islice(SyntheticPairStream(recipe.world, SKD, 0, teachers=True), 6)
    for sample in samples:
        assert sample["frame"].shape == sample["other"].shape == (3, 32, 32)
        assert sample["large_frame"].shape == (3, 64, 96)
        assert sample["frame"].abs().max() <= 1
        assert sample["density"].shape == (1, 32, 32)
        assert sample["density"].sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("pair", ["previous", "next"])
def test_synthetic_frame_has_its_own_density_and_the_right_neighbour(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_pairs, "SCENE_FRAMES", 4)  # so few frames that the frame can be identified
    monkeypatch.setattr(synthetic_pairs, "INITIAL_SCENES", 1)
    world, prepare = (
        World(synthetic_pairs.FIRST_TRAINING_SCENE, 96, 64, synthetic_pairs.FPS),
        Preprocessing(32, 32),
    )
    images = [torch.from_numpy(prepare(world.frame(index).image)[0]) for index in range(5)]
    densities = [torch.from_numpy(gaze_density(world, index, 32, 32))[None] for index in range(5)]
    mirrorings = set()
    for sample in itertools.islice(
        SyntheticPairStream(short_skd_recipe().world, SkdSettings(32, pair, "density"), 0, teachers=False), 12
    ):
        for mirrored in (False, True):
            candidates = [image.flip(-1) if mirrored else image for image in images]
            frame = sample["frame"]
            matches = [i for i, image in enumerate(candidates) if torch.allclose(image, frame, atol=1e-2)]
            if not matches:
                continue
            (index,) = matches
            mirrorings.add(mirrored)
            neighbour = candidates[index - 1 if pair == "previous" else index + 1]
            torch.testing.assert_close(sample["other"], neighbour, atol=1e-2, rtol=0)
            density = densities[index].flip(-1) if mirrored else densities[index]
            torch.testing.assert_close(sample["density"], density)
            break
        else:
            pytest.fail("the frame is not from the scene")
    assert mirrorings == {False, True}


def test_lag_varies_by_up_to_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    indices: list[int] = []

    class RecordingWorld(World):
        def frame(self, index: int) -> WorldFrame:
            indices.append(index)
            return super().frame(index)

    monkeypatch.setattr(synthetic_pairs, "World", RecordingWorld)
    student = SkdSettings(32, "previous", "density", lag_s=0.3)
    for _ in itertools.islice(SyntheticPairStream(short_skd_recipe().world, student, 0, teachers=False), 6):
        pass
    gaps = {after - before for before, after in zip(indices[::2], indices[1::2], strict=True)}
    assert gaps == {2, 3, 4}


def test_aligned_neighbour_differs_less_than_an_unaligned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_pairs, "INITIAL_SCENES", 2)
    world = short_skd_recipe(world__width="256", world__height="144", world__twins="1.0").world
    gaps = {}
    for align in (False, True):
        student = SkdSettings(64, "previous", "density", 0.3, align)
        samples = list(itertools.islice(SyntheticPairStream(world, student, 0, teachers=False), 24))
        gaps[align] = float(np.mean([(s["frame"] - s["other"]).abs().mean() for s in samples]))
    assert gaps[True] < 0.5 * gaps[False]


def test_streams_share_no_scene_and_use_no_evaluation_scene(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenes: list[int] = []

    def make_world(seed: int, *size: int, twins: bool) -> World:
        scenes.append(seed)
        return World(7, 64, 64, 10.0)

    monkeypatch.setattr(synthetic_pairs, "World", make_world)
    for stream in range(4):
        for _ in itertools.islice(
            SyntheticPairStream(short_skd_recipe().world, SKD, stream, teachers=False), 3
        ):
            pass
    assert len(set(scenes)) == len(scenes)
    assert min(scenes) >= synthetic_pairs.FIRST_TRAINING_SCENE


def test_each_initial_pair_is_drawn_reuse_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_pairs, "INITIAL_SCENES", 3)
    world = short_skd_recipe(world__reuse="4", world__pairs_per_scene="2").world
    samples = itertools.islice(SyntheticPairStream(world, SKD, 0, teachers=False), 3 * 2 * 4)
    counts = Counter(round(float(sample["frame"].sum()), 1) for sample in samples)
    assert sorted(counts.values()) == [4] * 6  # mirroring does not change the sum


def test_same_recipe_gives_the_same_student() -> None:
    first, second, third = (skd.distil(short_skd_recipe(seed=seed)) for seed in ("1", "1", "2"))
    for key, value in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[key], value), key
    assert any(
        not torch.equal(third.network.state_dict()[key], value)
        for key, value in first.network.state_dict().items()
    )


def test_frozen_parts_do_not_change_while_the_decoder_learns() -> None:
    recipe = short_skd_recipe(network__freeze="true", network__average="0.0")
    students = skd.StudentDistillation(recipe, None)
    joint = skd.JointTransfer(recipe, students)
    before = {key: value.clone() for key, value in joint.network.state_dict().items()}
    skd._fit("network", joint, {"network": skd._samples("network", recipe)}, recipe, None)
    changed = {
        key for key, value in joint.network.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(key.startswith("decoder.") for key in changed)


def test_student_loss_weights_its_teacher_by_mu() -> None:
    recipe = short_skd_recipe(students__mu="0.75")
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
        network__rate="1e-2", world__buffer="8", world__pairs_per_scene="8", world__reuse="1000",
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


def test_network_loss_uses_the_mean_map_of_the_teachers() -> None:
    recipe = short_skd_recipe(
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
        short_skd_recipe(
            network__soft="0.25", network__taught_by='"teachers"', teachers__steps="0", students__mu="0"
        )
