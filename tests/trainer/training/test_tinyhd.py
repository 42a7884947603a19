"""Stages of TinyHD's distillation: teachers, losses, optimizer, resuming, and whole recipes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.support.training import KilledError, assert_equal_weights, set_options
from trainer.data.clip_windows import MixedWindowDataset, SyntheticWindows, WindowDataset, WindowShape
from trainer.datasets.factory import open_dataset
from trainer.losses.hierarchical import kl
from trainer.models.hd2s import HD2S
from trainer.models.streaming import StreamingNetwork
from trainer.models.student import Student, TinyHDSettings, as_tinyhd, load_student
from trainer.models.tinyhd import LEVELS, MAPS, SaliencyMaps, TinyHD, Variant
from trainer.recipes.loader import SkdRecipe, StageTable, TinyHDRecipe, load_recipe
from trainer.recipes.tinyhd import DistilledTable, TeacherTable
from trainer.training import tinyhd
from trainer.training.loop import TrainingRun, fit
from trainer.training.monitor import TrainingProgress
from trainer.training.pool import scene_settings
from trainer.training.run import train
from trainer.training.stage import TrainingStage
from trainer.training.tinyhd import StudentDistillation, TeacherTraining, run_teacher

SMALL_FRAMES = {"student.height": "32", "student.width": "32", "workers": "0", "mixed": "false"}
FEW_STEPS = {
    "world.frames": "16", "world.width": "64", "world.height": "64", "world.scenes": "1",
    "teacher.steps": "1", "teacher.batch": "2", "distillation.steps": "2", "distillation.batch": "2",
}  # fmt: skip
ALL_PARTS = [*LEVELS, "d2", "d3"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _reproducible(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed torch and keep `fit` from setting the number of threads."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)


def short_recipe(name: str, **changes: str) -> TinyHDRecipe:
    recipe = load_recipe(
        name, {**SMALL_FRAMES, **FEW_STEPS, **{key.replace("__", "."): v for key, v in changes.items()}}
    )
    assert isinstance(recipe, TinyHDRecipe)
    return recipe


class LastFrame(nn.Module):
    """Teacher whose map is the last frame of the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, clip: Tensor) -> SaliencyMaps:
        assert clip.shape[2] == 16
        self.runs += 1
        return SaliencyMaps(clip[:, 0, -1:], {"x0": clip[:, 1, -1:]})


class Bright(nn.Module):
    """Teacher whose map, one per clip, is the brightness of the last frame."""

    def forward(self, clip: Tensor) -> SaliencyMaps:
        fused = (clip[:, 0, -1:] + 1) / 2 + 0.01
        return SaliencyMaps(fused, {"x0": fused})


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="GPUs compute 3-D convolutions in bfloat16 reproducibly"
)
def test_clip_networks_are_not_trained_in_bfloat16_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    autocast, original_loss = [], StudentDistillation.loss

    def loss(stage: StudentDistillation, batch: dict[str, Tensor]) -> Tensor:
        autocast.append(torch.is_autocast_enabled("cpu"))
        return original_loss(stage, batch)

    monkeypatch.setattr(StudentDistillation, "loss", loss)
    train(short_recipe("tinyhd-s-rc1", mixed="true"))
    assert autocast == [False, False]


def test_teacher_with_one_map_runs_on_windows_that_end_at_each_frame() -> None:
    teacher, clip = LastFrame(), torch.rand(2, 3, 31, 4, 4)
    maps = run_teacher(teacher, clip, 16)
    assert torch.equal(maps.fused, clip[:, 0, 15:])
    assert torch.equal(maps.parts["x0"], clip[:, 1, 15:])
    assert teacher.runs == 16
    assert torch.equal(run_teacher(teacher, clip, 1).fused, clip[:, 0, -1:])
    assert teacher.runs == 17


def test_teacher_with_all_maps_runs_once_on_the_frames_of_the_student() -> None:
    assistant, clip = TinyHD("M", 8).eval(), torch.rand(1, 3, 31, 32, 32)
    maps = run_teacher(assistant, clip, 16)
    torch.testing.assert_close(maps.fused, assistant(clip[:, :, 15:]).fused)
    assert not maps.fused.requires_grad


def test_teacher_loss_weights_conspicuity_maps_by_supervision() -> None:
    batch = {"clip": torch.randn(1, 3, 20, 32, 32), "density": torch.rand(1, 4, 32, 32)}
    stage = TeacherTraining(TeacherTable(steps=1, batch=2, supervision=0.5)).eval()
    maps, truth = stage.network(batch["clip"][:, :, 4:]), batch["density"][:, 3:]
    expected = kl(truth, maps.fused) + 0.5 * sum(kl(truth, maps.parts[name]) for name in LEVELS)
    torch.testing.assert_close(stage.loss(batch), expected)


def test_assistant_provides_targets_for_all_six_maps() -> None:
    assistant, student = TinyHD("S", 4).eval(), TinyHD("S", 8)
    stage = StudentDistillation(DistilledTable(steps=1, batch=2), student, assistant).eval()
    batch = {"clip": torch.randn(2, 3, 16, 32, 32), "density": torch.rand(2, 1, 32, 32)}
    maps, targets = student(batch["clip"]), assistant(batch["clip"])
    expected = kl(batch["density"], maps.fused) + kl(targets.fused, maps.fused)
    expected = expected + sum(kl(targets.parts[name], maps.parts[name]) for name in ALL_PARTS)
    torch.testing.assert_close(stage.loss(batch), expected)
    assert all(name.startswith("network.") for name, _ in stage.named_parameters())


def test_auxiliary_clips_learn_from_the_teacher_alone(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "videos" / "a.avi", 20)
    shape = WindowShape(32, 32)
    videos = WindowDataset(open_dataset("videos", tmp_path / "videos"), shape, 0)
    labelled = WindowDataset(open_dataset("ucf-sports", trees.write_ucf_sports(tmp_path)), shape, 0)
    mixed = MixedWindowDataset(labelled, videos, 0)
    student, teacher = TinyHD("S", 8), Bright()
    stage = StudentDistillation(DistilledTable(steps=1, batch=2, supervision=0.5), student, teacher).eval()
    for index, has_truth in ((0, True), (1, False)):
        batch = default_collate([mixed[index]])
        maps, targets = student(batch["clip"]), teacher(batch["clip"])
        teacher_terms = kl(targets.fused, maps.fused) + kl(targets.parts["x0"], maps.parts["x0"])
        truth_terms = stage.loss(batch) - teacher_terms
        assert (truth_terms.item() > 0.1) == has_truth
        assert has_truth or truth_terms.item() == pytest.approx(0, abs=1e-6)


def samples(root: Path, frames: int = 16, densities: int = 1) -> list[dict[str, Tensor]]:
    """Return one window of each of two clips."""
    dataset = open_dataset("ucf-sports", trees.write_ucf_sports(root, clips=2, frames=18))
    windows = WindowDataset(dataset, WindowShape(32, 32, frames, densities), 0)
    return [windows[index] for index in range(2)]


def train_losses(stage: TrainingStage, windows: list[dict[str, Tensor]], table: StageTable) -> list[float]:
    """Return the loss of each step."""
    losses: list[float] = []
    run = TrainingRun(on_step=lambda progress: losses.append(progress.loss))
    fit("a", stage, windows, short_recipe("tinyhd-s-rc1"), table, run)  # type: ignore[arg-type]
    return losses


def test_loss_of_the_teacher_falls_on_few_clips(tmp_path: Path) -> None:
    table = TeacherTable(steps=8, batch=2, rate=1e-2, schedule="steps")
    losses = train_losses(TeacherTraining(table), samples(tmp_path), table)
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(("variant", "schedule", "rate"), [("S", "steps", 5e-2), ("M", "constant", 1e-3)])
def test_loss_of_a_student_falls_on_few_clips(
    tmp_path: Path, variant: Variant, schedule: Literal["steps", "constant"], rate: float
) -> None:
    table = DistilledTable(steps=24, batch=2, rate=rate, schedule=schedule)
    student, maps = TinyHD(variant, 8), MAPS[variant]
    stage = StudentDistillation(table, student, Bright())
    losses = train_losses(stage, samples(tmp_path, 15 + maps, maps), table)
    assert losses[-1] < 0.85 * losses[0]


def test_optimizer_is_that_of_the_paper() -> None:
    table = DistilledTable(steps=200, batch=2, rate=0.01, schedule="steps")
    stage = StudentDistillation(table, TinyHD("S", 8), Bright())
    configured = stage.configure_optimizers()
    groups = {id(group["params"][0]): group for group in configured["optimizer"].param_groups}
    by_name = {name: groups.pop(id(p)) for name, p in stage.named_parameters()}
    assert not groups
    settings = {
        (name.split(".")[1] == "encoder", name.endswith("bias")): (group["lr"], group["weight_decay"])
        for name, group in by_name.items()
    }
    assert settings == {
        (False, False): (0.01, 5e-4), (False, True): (0.02, 0.0),
        (True, False): (0.005, 5e-4), (True, True): (0.01, 0.0),
    }  # fmt: skip
    assert all(group["momentum"] == 0.9 for group in by_name.values())
    assert sorted(configured["lr_scheduler"]["scheduler"].milestones) == [100, 150, 180]


@pytest.mark.first
def test_killed_recipe_resumes_in_its_stage(tmp_path: Path) -> None:
    root = trees.write_ucf_sports(tmp_path / "data", clips=2, frames=18)
    trees.write_video(tmp_path / "videos" / "a.avi", 20)
    recipe = short_recipe(
        "tinyhd-s-rc2", student__rc="8", assistants__rc="[2, 4]", assistants__steps="2",
        assistants__batch="2", data__kind='"ucf-sports"', data__root=f'"{root}"',
        data__auxiliary=f'"{tmp_path / "videos"}"',
    )  # fmt: skip

    def kill(progress: TrainingProgress) -> None:
        if (progress.stage, progress.step) == ("assistant-rc4", 2):
            raise KilledError

    uninterrupted = train(recipe)
    with pytest.raises(KilledError):
        train(recipe, TrainingRun(tmp_path / "run", 1, kill))
    steps: list[tuple[str, int]] = []
    resumed = train(recipe, TrainingRun(tmp_path / "run", 1, lambda p: steps.append((p.stage, p.step))))
    assert steps == [("assistant-rc4", 2), ("student", 1), ("student", 2)]
    torch.testing.assert_close(resumed.network.state_dict(), uninterrupted.network.state_dict())
    assert resumed.trained["data"] == "ucf-sports and auxiliary videos"
    with pytest.raises(InputError, match="training of another recipe"):
        train(recipe.model_copy(update={"seed": 5}), TrainingRun(tmp_path / "run"))


def test_student_starts_from_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TinyHDSettings("S", 8, height=64, width=64)
    start, path = Student("imported", settings, settings.build().eval(), {}), tmp_path / "start.safetensors"
    start.save(path)
    monkeypatch.setattr(tinyhd, "fit", lambda *arguments: None)
    changes = {"student__rc": "8", "distillation__start": f'"{path}"'}
    student = train(short_recipe("tinyhd-s-rc1", **changes))
    assert (student.settings.kind, student.settings.preprocessing().width) == ("tinyhd", 32)
    assert_equal_weights(student.network, start.network)
    with pytest.raises(
        InputError, match="has rc 8, the recipe has 1; expected a student of the same network"
    ):
        train(short_recipe("tinyhd-s-rc1", distillation__start=f'"{path}"'))


def test_each_student_learns_from_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    chain: list[tuple[str, str, str, tuple[int, ...], tuple[int, ...]]] = []

    def record(name: str, stage: TrainingStage, samples: SyntheticWindows, *rest: object) -> None:
        sample = samples[0]
        teachers = [f"{type(n).__name__} {id(n)}" for n in getattr(stage, "_teacher", [])]
        network = stage.network
        assert isinstance(network, nn.Module)
        student = f"{type(network).__name__} {id(network)}"
        shapes = tuple(sample["clip"].shape), tuple(sample["density"].shape)
        chain.append((name, student, "".join(teachers), *shapes))

    monkeypatch.setattr(tinyhd, "fit", record)
    train(short_recipe("tinyhd-m-rc4"))
    assert [link[0] for link in chain] == ["teacher", "assistant-rc1", "assistant-rc2", "student"]
    for before, link in itertools.pairwise(chain):
        assert link[2] == before[1]
    assert [link[3][1] for link in chain] == [16, 31, 16, 16]
    assert [link[4][0] for link in chain] == [1, 16, 16, 16]


def test_weights_of_an_earlier_teacher_are_loaded(tmp_path: Path) -> None:
    stage = TeacherTraining(TeacherTable(steps=1, batch=2))
    (tmp_path / "teacher").mkdir()
    torch.save(stage.state_dict(), tmp_path / "teacher" / "done.pt")
    for path in (tmp_path, tmp_path / "teacher" / "done.pt"):
        network = HD2S()
        tinyhd.load_teacher(network, path)
        assert torch.equal(network.fusion.weight, stage.network.fusion.weight)
    torch.save({"network.fusion.weight": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    torch.save([1], tmp_path / "list.pt")
    torch.save({1: 2}, tmp_path / "number.pt")
    for path, message in (
        (tmp_path / "none.pt", r"no teacher at .*none.pt; expected the folder of a run"),
        (tmp_path / "other.pt", r"other.pt does not hold weights of the teacher HD2S"),
        *(
            (tmp_path / f"{name}.pt", rf"{name}.pt does not hold weights of the teacher HD2S")
            for name in ("text", "empty", "list", "number")
        ),
    ):
        with pytest.raises(InputError, match=message) as caught:
            tinyhd.load_teacher(HD2S(), path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.kind": "dhf1k", "data.root": "nowhere"}, "no folder nowhere; expected the root of a dhf1k"),
        ({"data.auxiliary": "{tmp}"}, "is not laid out as a tree of video"),
        (
            {"data.kind": "ucf-sports", "data.root": "{tmp}/bare"},
            "bare has no density; expected labels named as the frames, for example in",
        ),
        ({"student.imagenet": "none.pth"}, "no weights at none.pth; expected a state dict"),
        ({"teacher.weights": "none.pt"}, "no teacher at none.pt"),
        ({"student.rc": "3"}, "student.rc: Input should be 1, 2, 4 or 8, got 3"),
    ],
)
def test_invalid_use_is_reported_in_one_line_before_training(
    command: Callable[..., Outcome], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    trees.write_frame(tmp_path / "bare" / "training" / "c" / "images" / "001.png", 1)
    values = {key: value.format(tmp=tmp_path) for key, value in changes.items()}
    options = set_options({**SMALL_FRAMES, **values})
    options += ["--out", str(tmp_path / "s.safetensors"), "--run", str(tmp_path / "run")]
    outcome = command("train", "tinyhd-s-rc1", *options)
    assert outcome.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_command_trains_a_student_that_can_be_evaluated(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    options = set_options({**SMALL_FRAMES, **FEW_STEPS, "student.rc": "8"})
    outcome = command("train", "tinyhd-m-rc1", "--out", tmp_path / "s.safetensors", *options)
    assert outcome.code == 0, outcome.err
    settings, network = as_tinyhd(load_student(tmp_path / "s.safetensors"))
    assert (settings.variant, settings.rc, settings.height, network.maps) == ("M", 8, 32, 16)
    root = trees.write_ucf_sports(tmp_path / "data", frames=18)
    scored = command(
        "evaluate", tmp_path / "s.safetensors", "--dataset", "ucf-sports", "--root", root,
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["metrics"]["cc"]["frames"] == 18
    assert document["maps"].startswith("student s, PyTorch")


@pytest.mark.first
def test_command_trains_a_streaming_student_that_can_be_evaluated(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    changes = {**FEW_STEPS, "workers": "0", "mixed": "false", "student.imagenet": "false"}
    changes |= {"assistants.steps": "1", "assistants.batch": "2"}
    changes |= {"student.align": "true", "student.lag_s": "0.3"}
    options = set_options(changes)
    out = tmp_path / "s.safetensors"
    outcome = command("train", "stream-96", "--out", out, "--run", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    for stage in ("teacher", "assistant-rc1", "student"):
        assert (tmp_path / "run" / stage / "done.pt").is_file()
    student = load_student(out)
    assert student.settings.build().state_dict().keys() == student.network.state_dict().keys()
    root = trees.write_ucf_sports(tmp_path / "data", frames=10)
    scored = command(
        "evaluate", out, "--dataset", "ucf-sports", "--root", root, "--json", tmp_path / "s.json"
    )
    assert scored.code == 0, scored.err
    assert json.loads((tmp_path / "s.json").read_text())["metrics"]["cc"]["frames"] == 10


def test_command_describes_each_stage(command: Callable[..., Outcome]) -> None:
    outcome = command("train", "tinyhd-m-rc4", "--describe")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines() if "192" in line]
    assert [(row[1], row[3], row[-6], row[-4], row[-2]) for row in rows] == [
        ("teacher", "HD2S", "29,551,145", "22.210", "1"),
        ("assistant-rc1", "TinyHD", "3,922,405", "7.221", "16"),
        ("assistant-rc2", "TinyHD", "1,366,979", "6.162", "16"),
        ("student", "TinyHD", "515,281", "3.557", "16"),
    ]


def test_without_teacher_every_map_learns_the_ground_truth() -> None:
    student = StreamingNetwork(4).eval()
    stage = StudentDistillation(DistilledTable(steps=1, batch=2, supervision=0.25), student, None)
    batch = {"clip": torch.randn(1, 3, 16, 32, 32), "density": torch.rand(1, 16, 32, 32)}
    maps = student(batch["clip"])
    expected = kl(batch["density"], maps.fused) + 0.25 * sum(
        kl(batch["density"], maps.parts[name]) for name in ALL_PARTS
    )
    torch.testing.assert_close(stage.eval().loss(batch), expected)


def test_recipe_of_the_shipped_streaming_student_has_one_stage_on_the_pool_of_skd_motion() -> None:
    stages: list[str] = []
    changes = {"student.imagenet": "false", "workers": "0", "mixed": "false", "distillation.batch": "2"}
    changes |= {"world.scenes": "9", "world.width": "128"}
    recipe = load_recipe("stream", {**changes, "distillation.steps": "2"})
    train(recipe, TrainingRun(on_step=lambda p: stages.append(p.stage)))
    assert stages == ["student", "student"]
    for names in (
        ("stream", "skd-64-motion", "skd-128-motion"),
        ("stream-plain", "skd-64", "skd-64-motion-plain", "skd-128"),
    ):
        keys = set()
        for name in names:
            full = load_recipe(name)
            assert isinstance(full, (SkdRecipe, TinyHDRecipe))
            keys.add(scene_settings(full, full.world).key)
        assert len(keys) == 1


def test_windows_take_every_nth_frame_of_a_data_set(tmp_path: Path) -> None:
    dataset = open_dataset("ucf-sports", trees.write_ucf_sports(tmp_path, clips=1, frames=18))
    every_frame = WindowDataset(dataset, WindowShape(32, 32, 18, 18), 0).window(dataset.clips[0], 17)
    every_third_frame = WindowDataset(dataset, WindowShape(32, 32, 4, 2, every=3), 0).window(
        dataset.clips[0], 17
    )
    assert every_frame is not None
    assert every_third_frame is not None
    assert torch.equal(every_third_frame["clip"], every_frame["clip"][:, [8, 11, 14, 17]])
    assert torch.equal(every_third_frame["density"], every_frame["density"][[14, 17]])
