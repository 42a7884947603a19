"""Training on data sets on disk: samples, soft labels, learning, and two processes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.support.training import run_torchrun, set_options
from trainer.data.labelled_pairs import LabelledPairs
from trainer.data.map_shards import ShardedMaps
from trainer.data.teacher_maps import TeacherKind, open_maps
from trainer.datasets.factory import open_dataset
from trainer.losses.saliency import hard_label, kl_cc
from trainer.models.student import Pair, SkdSettings, load_student
from trainer.recipes.loader import SkdRecipe, StageTable, load_recipe
from trainer.training import skd
from trainer.training.loop import TrainingRun, fit
from trainer.training.run import train
from trainer.training.stage import Batch, TrainingStage

SHORT = {
    "data.kind": "avs1k", "data.split": "train", "data.width": "96", "data.height": "64", "workers": "0",
    "teachers.steps": "2", "teachers.batch": "2", "teachers.imagenet": "false",
    "students.steps": "2", "students.batch": "4", "network.steps": "3", "network.batch": "4",
}  # fmt: skip


def settings(root: Path, **changes: str) -> dict[str, str]:
    return {
        "world.width": "256", "world.height": "144", "data.root": str(root), **SHORT,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip


def recipe(root: Path, **changes: str) -> SkdRecipe:
    loaded = load_recipe("demo", settings(root, **changes))
    assert isinstance(loaded, SkdRecipe)
    return loaded


def write_avs1k(root: Path, clips: int = 2, frames: int = 5) -> Path:
    """Write clips whose viewers look at a bright spot, so that the density can be learnt from the frame."""
    for clip in range(clips):
        name = f"Car_{clip + 1:05d}"
        for index in range(frames):
            stem = f"{name}_{index + 1:05d}.png"
            row, column = 8 + 7 * (index % 5), 8 + 40 * clip + 3 * (index % 5)
            image = np.full((trees.HEIGHT, trees.WIDTH, 3), 10 * index + 5, np.uint8)
            cv2.circle(image, (column, row), 4, (255, 255, 255), -1)
            path = root / "trainSet" / "Frame" / name / stem
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
            trees.write_density(root / "trainSet" / "Ground" / name / stem, row, column)
    return root


def samples(root: Path, pair: Pair = "previous", mirror: bool = False) -> LabelledPairs:
    return LabelledPairs(
        open_dataset("avs1k", root, "train"), SkdSettings(32, pair, "density"), mirror=mirror
    )


def frame_index(frame: Tensor) -> int:
    """Return the index of a frame from the brightness of its background."""
    return round((float(frame.median() + 1) * 127.5 - 5) / 10)


@pytest.mark.parametrize(
    ("pair", "neighbours"),
    [("previous", [0, 0, 1, 2, 3]), ("next", [1, 2, 3, 4, 4])],
    ids=["previous", "next"],
)
def test_labelled_frame_has_its_neighbour_and_density(
    tmp_path: Path, pair: Pair, neighbours: list[int]
) -> None:
    pairs = samples(write_avs1k(tmp_path), pair)
    assert len(pairs) == 10
    for clip in range(2):
        clip_samples = [pairs[5 * clip + index] for index in range(5)]
        assert [frame_index(sample["frame"]) for sample in clip_samples] == [0, 1, 2, 3, 4]
        assert [frame_index(sample["other"]) for sample in clip_samples] == neighbours
        for index, sample in enumerate(clip_samples):
            assert sample["frame"].shape == sample["other"].shape == (3, 32, 32)
            assert sample["density"].shape == (1, 32, 32)
            assert sample["density"].sum().item() == pytest.approx(1, abs=1e-5)
            row, column = divmod(int(sample["density"].argmax()), 32)
            assert row == pytest.approx((8 + 7 * index) * 32 / 48, abs=1.1)
            assert column == pytest.approx((8 + 40 * clip + 3 * index) / 2, abs=1.1)
            assert set(sample) == {"frame", "other", "density"}


def test_mirrored_samples_follow_the_plain_ones(tmp_path: Path) -> None:
    plain, both = samples(write_avs1k(tmp_path)), samples(tmp_path, mirror=True)
    assert (len(plain), len(both)) == (10, 20)
    for index in range(10):
        for name, value in plain[index].items():
            assert torch.equal(both[index][name], value)
            assert torch.equal(both[10 + index][name], value.flip(-1))


def test_frames_without_density_are_left_out_and_counted(tmp_path: Path) -> None:
    write_avs1k(tmp_path)
    ground = tmp_path / "trainSet" / "Ground" / "Car_00002"
    (ground / "Car_00002_00001.png").unlink()
    (ground / "Car_00002_00004.png").unlink()
    pairs = samples(tmp_path)
    assert len(pairs) == 8
    assert pairs.summary() == f"avs1k at {tmp_path}, train: 8 frames, left out 2 without density"
    assert [frame_index(pairs[index]["frame"]) for index in (5, 6, 7)] == [1, 2, 4]
    assert frame_index(pairs[5]["other"]) == 0  # a neighbour needs no label
    for path in tmp_path.rglob("Ground/*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match="can be trained on: 10 without density, 0 without a teacher's map"):
        samples(tmp_path)


def test_unreadable_sample_is_replaced_by_the_next(tmp_path: Path) -> None:
    write_avs1k(tmp_path)
    frames = tmp_path / "trainSet" / "Frame" / "Car_00001"
    (frames / "Car_00001_00002.png").write_bytes(b"no picture")
    blank = np.zeros((trees.HEIGHT, trees.WIDTH), np.uint8)
    cv2.imwrite(str(tmp_path / "trainSet" / "Ground" / "Car_00002" / "Car_00002_00005.png"), blank)
    pairs = samples(tmp_path)
    assert frame_index(pairs[1]["frame"]) == 2
    assert frame_index(pairs[2]["other"]) == 2  # its neighbour is unreadable, so it is its own neighbour
    assert frame_index(pairs[9]["frame"]) == 0
    for path in tmp_path.rglob("Frame/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="many frames in a row cannot be read"):
        samples(tmp_path)[0]


def test_soft_labels_are_read_from_the_images_of_the_frame(tmp_path: Path) -> None:
    write_avs1k(tmp_path / "data")
    dataset = open_dataset("avs1k", tmp_path / "data")
    for teacher, dtype in (("spatial", np.uint8), ("temporal", np.uint16)):
        for index in (0, 1, 3):
            path = tmp_path / teacher / "Car_00001" / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.zeros((16, 24), dtype)
            image[index] = np.iinfo(dtype).max if teacher == "spatial" else np.iinfo(dtype).max // 2
            cv2.imwrite(str(path), image)
    teachers: tuple[TeacherKind, TeacherKind] = ("spatial", "temporal")
    soft = {teacher: open_maps(tmp_path / teacher, teacher) for teacher in teachers}
    pairs = LabelledPairs(dataset, SkdSettings(32, "previous", "density"), soft=soft)
    assert len(pairs) == 3
    assert (pairs.frames_without_density, pairs.frames_without_map) == (0, 7)
    for position, index in enumerate((0, 1, 3)):
        sample = pairs[position]
        assert frame_index(sample["frame"]) == index
        assert sample["soft_spatial"].shape == (1, 32, 32)
        assert int(sample["soft_spatial"].sum(dim=2).argmax()) // 2 == index
        brightest = float(sample["soft_spatial"].max())
        assert brightest == pytest.approx(1, abs=0.3)
        assert float(sample["soft_temporal"].max()) == pytest.approx(brightest / 2, abs=0.01)
    with pytest.raises(InputError, match=r"no folder .*none; expected maps by aerogaze label"):
        open_maps(tmp_path / "none", "spatial")


def test_soft_labels_of_shards_give_the_loss_of_the_teachers_themselves(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    root, run = write_avs1k(tmp_path / "data"), tmp_path / "run"
    train(recipe(root), TrainingRun(run))
    for stride, frames in (("1", 10), ("2", 6)):
        out = tmp_path / f"maps-{stride}"
        outcome = command(
            "label", run / "teachers", "--dataset", "avs1k", "--root", root, "--out", out,
            "--size", "32x32", "--stride", stride,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        loaded = recipe(root, students__maps=str(out), teachers__steps="0", students__mu="0.75")
        pairs = skd._samples("students", loaded)
        assert isinstance(pairs, LabelledPairs)
        assert len(pairs) == 2 * frames  # and mirrored
        assert "soft_spatial" not in skd._samples("network", loaded)[0]
    loaded = recipe(root, students__maps=str(tmp_path / "maps-1"), teachers__steps="0", students__mu="0.75")
    batch = torch.utils.data.default_collate([skd._samples("students", loaded)[i] for i in range(4)])
    students = skd.StudentDistillation(loaded, None).eval()
    expected = torch.zeros(())
    for student, kind in ((students.spatial, "spatial"), (students.temporal, "temporal")):
        raw = student(batch["frame"], batch["other"])
        maps = ShardedMaps(tmp_path / "maps-1")
        soft = torch.stack([torch.from_numpy(maps.map("Car_00001", i, kind))[None] for i in range(4)])
        expected = expected + 0.75 * kl_cc(raw, soft) + 0.25 * kl_cc(raw, batch["density"])
    torch.testing.assert_close(students.loss(batch), expected, atol=1e-4, rtol=1e-4)
    teachers = skd.TeacherTraining(recipe(root))
    teachers.load_state_dict(torch.load(run / "teachers" / "done.pt", weights_only=True))
    large = torch.utils.data.default_collate([skd._samples("teachers", recipe(root))[i] for i in range(4)])
    for computed, key in zip(teachers.eval().maps(large), ("soft_spatial", "soft_temporal"), strict=True):
        torch.testing.assert_close(batch[key], computed, atol=0.15, rtol=0)


def test_network_loss_weights_both_students_by_soft(tmp_path: Path) -> None:
    loaded = recipe(write_avs1k(tmp_path), network__soft="0.75", teachers__steps="0", students__mu="0")
    students = skd.StudentDistillation(loaded, None)
    joint = skd.JointTransfer(loaded, students).eval()
    batch = torch.utils.data.default_collate([skd._samples("network", loaded)[i] for i in range(4)])
    raw = joint.network(batch["frame"], batch["other"])
    spatial, temporal = (kl_cc(raw, soft) for soft in students.maps(batch))
    expected = 0.25 * kl_cc(raw, hard_label(batch["density"])) + 0.375 * (spatial + temporal)
    torch.testing.assert_close(joint.loss(batch), expected, atol=1e-4, rtol=1e-4)
    assert not any(name.startswith("_students") for name, _ in joint.named_parameters())
    before = {key: value.clone() for key, value in students.state_dict().items()}
    joint.train()
    skd._fit("network", joint, {"network": skd._samples("network", loaded)}, loaded, TrainingRun())
    assert all(torch.equal(value, before[key]) for key, value in students.state_dict().items())


@pytest.mark.parametrize("loss", ["kl_cc", "mse", "cc", "nss"])
def test_loss_falls_during_training(tmp_path: Path, loss: str) -> None:
    losses: list[float] = []
    loaded = recipe(
        write_avs1k(tmp_path), loss=loss, teachers__steps="0", students__steps="0", network__steps="60",
        network__batch="10", network__rate="1e-2", network__average="0.0", data__mirror="false",
    )  # fmt: skip
    student = train(loaded, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < (first - 1 if loss == "nss" else 0.6 * first)
    assert student.trained["data"] == f"avs1k at {tmp_path}, train: 10 frames, left out 0 without density"


class Pixels(TrainingStage):
    """Stage with batch norm, which two processes must train exactly like one."""

    def __init__(self, table: StageTable) -> None:
        super().__init__(table)
        torch.manual_seed(0)
        first = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        # no bias: the loss would not depend on it, and Adam would follow its rounding errors
        self.layer = nn.Sequential(first, self.norm, nn.ReLU(), nn.Conv2d(4, 1, 1, bias=False))

    def loss(self, batch: Batch) -> Tensor:
        raw = self.layer(torch.cat([batch["frame"], batch["other"]], dim=1))
        return kl_cc(raw, batch["density"])


TABLE = StageTable(steps=20, batch=4, rate=0.05, schedule="cosine")
TWO_PROCESSES = """
    import sys, torch
    from pathlib import Path
    from tests.trainer.data.test_labelled_pairs import TABLE, Pixels, recipe, samples
    from trainer.training.distributed import process_group
    from trainer.training.loop import fit
    if __name__ == "__main__":
        root, pixels = Path(sys.argv[1]), Pixels(TABLE)
        fit("pixels", pixels, samples(root, mirror=True), recipe(root), TABLE)
        torch.save(pixels.layer.state_dict(), f"{sys.argv[1]}/rank-{process_group().rank}.pt")
"""


@pytest.mark.first
def test_two_processes_train_the_weights_that_one_trains(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    write_avs1k(tmp_path)
    outcome = run_torchrun(script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    single = Pixels(TABLE)
    fit("pixels", single, samples(tmp_path, mirror=True), recipe(tmp_path), TABLE)
    assert type(single.norm) is nn.BatchNorm2d
    assert single.norm.state_dict()["running_mean"].abs().max() > 0.1
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in single.layer.state_dict().items():
        assert torch.equal(ranks[0][key], ranks[1][key])
        torch.testing.assert_close(ranks[0][key], value, atol=1e-4, rtol=1e-4)


def test_command_trains_on_a_data_set_with_a_worker(command: Callable[..., Outcome], tmp_path: Path) -> None:
    root, out = write_avs1k(tmp_path / "data"), tmp_path / "s.safetensors"
    outcome = command("train", "demo", "--out", out, *set_options(settings(root, workers="1")))
    assert outcome.code == 0, outcome.err
    assert f"trained on avs1k at {root}, train: 10 frames, left out 0 without density" in outcome.out
    stored = load_student(out).trained["recipe"]
    assert SkdRecipe.model_validate(stored).data == recipe(root).data


def test_missing_data_are_reported_before_a_run_is_created(
    command: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = [
        "--run",
        run,
        "--out",
        tmp_path / "s.safetensors",
        *set_options(settings(tmp_path / "nowhere")),
    ]
    outcome = command("train", "demo", *options)
    assert outcome.code == 2
    assert "no folder" in outcome.err
    assert not run.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.kind": "kitti"}, "unknown data set 'kitti'"),
        ({"data.root": "nowhere"}, "no folder nowhere; expected the root of a avs1k data set"),
        ({"data.split": "dev"}, "has no split 'dev'; it has train"),
        ({"world.width": "128"}, "data and world are both set"),
        ({"students.maps": "maps"}, "students.maps replaces the trained teachers"),
        ({"students.maps": "maps", "students.mu": "0", "teachers.steps": "0"}, "no student learns from it"),
        ({"students.maps": "maps", "teachers.steps": "0"}, "no folder maps; expected maps by aerogaze label"),
        (
            {"students.steps": "0", "teachers.steps": "0", "network.soft": "0.5"},
            "network.soft needs students",
        ),
        ({"network.soft": "2"}, "network.soft: .*less than or equal to 1"),
    ],
)
def test_invalid_input_is_reported_in_one_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    write_avs1k(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        train(load_recipe("demo", settings(tmp_path) | changes))
    assert "\n" not in str(caught.value)


def test_precomputed_maps_need_data_on_disk() -> None:
    with pytest.raises(InputError, match=r"students\.maps needs data"):
        load_recipe("demo", {"students.maps": "maps", "teachers.steps": "0"})
