"""Training on unlabelled video with precomputed maps instead of densities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.metrics.saliency import cc
from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.support.training import set_options
from trainer.data.clip_windows import WindowDataset, WindowShape
from trainer.data.labelled_pairs import LabelledPairs
from trainer.data.map_shards import ShardedMaps
from trainer.data.teacher_maps import open_maps
from trainer.datasets.factory import open_dataset
from trainer.inference.predictors import open_predictor
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import SkdSettings, Student, load_student
from trainer.recipes.loader import load_recipe
from trainer.training.loop import TrainingRun, open_run
from trainer.training.run import train

Command = Callable[..., Outcome]
FRAMES = 24


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two simulated videos without labels."""
    root = tmp_path_factory.mktemp("videos")
    for seed in (1, 2):
        trees.write_simulated_video(root / f"{seed}.avi", seed, (128, 96), FRAMES)
    return root


@pytest.fixture(scope="module")
def maps(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return maps of every second frame by a shipped student."""
    from edge.cli.main import run_cli

    out = tmp_path_factory.mktemp("maps") / "maps"
    arguments = ["label", "skd-64", "--dataset", "videos", "--root", videos, "--out", out, "--stride", "2"]
    assert run_cli(list(map(str, arguments))) == 0
    return out


def test_map_replaces_a_missing_density(videos: Path, maps: Path) -> None:
    unlabelled = open_dataset("videos", videos)
    dataset_with_maps = unlabelled.with_maps(open_maps(maps))
    labels = ShardedMaps(maps)
    for clip in dataset_with_maps.clips:
        assert clip.labelled_frames("density") == list(range(0, FRAMES, 2))
        assert clip.label_kinds == {"density"}
        for frame in clip.frames():
            if frame.index % 2:
                assert frame.density is None
                continue
            assert frame.density is not None
            assert frame.density.shape == (96, 128)
            expected = cv2.resize(labels.map(clip.name, frame.index), (128, 96))
            np.testing.assert_allclose(frame.density, expected, atol=1e-6)
    assert unlabelled.clips[0].labelled_frames("density") == []


def test_density_has_priority_over_a_map(tmp_path: Path) -> None:
    root = trees.write_dhf1k(tmp_path / "d", [1], frames=4)
    dataset = open_dataset("dhf1k", root)
    ground = next(root.rglob("maps"))
    (ground / "0003.png").unlink()
    dataset_with_maps = dataset.with_maps(
        open_maps(write_flat_maps(tmp_path / "maps", dataset.clips[0].name, range(4)))
    )
    pairs = list(zip(dataset.clips[0].frames(), dataset_with_maps.clips[0].frames(), strict=True))
    for original, combined in pairs:
        assert combined.density is not None
        if original.index == 2:
            assert original.density is None
            np.testing.assert_allclose(combined.density, 0.2, atol=1e-6)
        else:
            assert original.density is not None
            assert np.array_equal(original.density, combined.density)
    assert dataset.missing_labels() == {"density": {dataset.clips[0].name: 1}}
    assert "density" not in dataset_with_maps.missing_labels()


def write_flat_maps(folder: Path, clip: str, frames: Iterable[int]) -> Path:
    """Write constant maps for some frames of a clip."""
    for index in frames:
        path = folder / clip / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), 51, np.uint8))
    return folder


def test_maps_beyond_the_clip_and_clips_without_maps_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trees.write_video(tmp_path / "films" / f"{name}.avi", 6)
    unlabelled = open_dataset("videos", tmp_path / "films")
    assert unlabelled.clips[0].labelled_frames("density") == []
    dataset_with_maps = unlabelled.with_maps(
        open_maps(write_flat_maps(tmp_path / "maps", "a.avi", (4, 5, 6, 400)))
    )
    assert [clip.name for clip in dataset_with_maps.clips] == ["a.avi"]
    assert dataset_with_maps.clips[0].labelled_frames("density") == [4, 5]
    pairs = LabelledPairs(dataset_with_maps, SkdSettings(32, "previous", "density"))
    assert (len(pairs), pairs.frames_without_density) == (2, 4)


def test_damaged_map_is_recorded_and_replaced_by_its_neighbour(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "films" / "a.avi", 6)
    maps = write_flat_maps(tmp_path / "maps", "a.avi", range(6))
    (maps / "a.avi" / "000002.png").write_bytes(b"not an image")
    dataset_with_maps = open_dataset("videos", tmp_path / "films").with_maps(open_maps(maps))
    pairs = LabelledPairs(dataset_with_maps, SkdSettings(32, "previous", "density"))
    brightness = [float((pairs[index]["frame"].mean() + 1) * 127.5) for index in (1, 2, 3)]
    assert brightness == pytest.approx([15, 35, 35], abs=3), "frame 3 replaces frame 2"
    assert [fault for fault in dataset_with_maps.describe_faults() if "000002.png cannot be read" in fault]


def test_windows_end_with_a_frame_that_has_a_map(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "films" / "a.avi", 40)
    unlabelled = open_dataset("videos", tmp_path / "films")
    dataset_with_maps = unlabelled.with_maps(open_maps(write_flat_maps(tmp_path / "maps", "a.avi", (20, 35))))
    shape = WindowShape(32, 32, 4, 1)
    assert {dataset_with_maps.clips[0].nearest_labelled(index) for index in range(40)} == {20, 35}
    assert dataset_with_maps.clips[0].nearest_labelled(27) == 20
    assert unlabelled.clips[0].nearest_labelled(27) == 27
    assert all(WindowDataset(dataset_with_maps, shape, 0)[index]["density"].any() for index in range(10))


def test_run_of_a_version_without_a_recipe_key_resumes(tmp_path: Path) -> None:
    recipe = load_recipe("stream-96")
    open_run(TrainingRun(tmp_path / "run"), recipe)
    path = tmp_path / "run" / "recipe.json"
    document = json.loads(path.read_text())
    assert document["data"].pop("maps") is None
    path.write_text(json.dumps(document))
    open_run(TrainingRun(tmp_path / "run"), recipe)
    for other in ({**document, "seed": 2}, {"name": "stream-96"}):
        path.write_text(json.dumps(other))
        with pytest.raises(InputError, match="holds the training of another recipe"):
            open_run(TrainingRun(tmp_path / "run"), recipe)


def test_maps_of_two_teachers_are_averaged(tmp_path: Path) -> None:
    from trainer.data.teacher_maps import _ShardMaps

    class TwoMaps:
        def frames(self, clip: str) -> np.ndarray:
            return np.array([0], np.int32)

        def map(self, clip: str, frame: int, name: str) -> np.ndarray:
            return np.full((2, 2), {"spatial": 0.25, "temporal": 1.75}[name], np.float32)

    saliency = _ShardMaps(TwoMaps(), ["spatial", "temporal"]).map("a", 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(saliency, (0.25 + 1) / 2)


@pytest.mark.first
def test_skd_student_learns_the_maps_of_unlabelled_video(
    command: Command, videos: Path, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.safetensors"
    changes = {
        "data.kind": "videos", "data.root": videos, "data.maps": maps, "data.mirror": "false",
        "teachers.steps": "0", "students.steps": "0", "students.mu": "0", "workers": "0", "mixed": "false",
        "network.steps": "60", "network.batch": "12", "network.rate": "5e-3", "network.average": "0",
    }  # fmt: skip
    outcome = command("train", "skd-64", "--out", out, *set_options(changes))
    assert outcome.code == 0, outcome.err
    assert f"{FRAMES} frames, left out {FRAMES} without density" in outcome.out
    labels, correlation = ShardedMaps(maps), {}
    untrained = tmp_path / "u.safetensors"
    settings = load_student(out).settings
    assert isinstance(settings, SkdSettings)
    Student("u", settings, SpatiotemporalNetwork().eval(), {}).save(untrained)
    for model in (out, untrained):
        scores = []
        for clip in open_dataset("videos", videos).clips:
            for frame, saliency in open_predictor(str(model)).predict(clip.name, clip.frames()):
                if frame.index % 2 == 0:
                    label = labels.map(clip.name, frame.index)
                    scores.append(cc(cv2.resize(saliency, label.shape[::-1]), label))
        correlation[model] = float(np.mean(scores))
    assert correlation[out] > 0.6
    assert correlation[out] > correlation[untrained] + 0.3


def test_clip_networks_and_their_teacher_train_on_maps(videos: Path, maps: Path) -> None:
    losses: list[float] = []
    recipe = load_recipe(
        "stream-96",
        {
            "data.kind": "videos", "data.root": str(videos), "data.maps": str(maps), "workers": "0",
            "mixed": "false", "student.imagenet": "false", "teacher.steps": "1", "teacher.batch": "2",
            "assistants.steps": "1", "assistants.batch": "2", "assistants.rc": "[2]",
            "distillation.steps": "2", "distillation.batch": "2",
        },
    )  # fmt: skip
    student = train(recipe, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    assert student.trained["data"] == "videos with maps"
    assert np.isfinite(losses).all()
    dataset_with_maps = open_dataset("videos", videos).with_maps(open_maps(maps))
    window = WindowDataset(dataset_with_maps, WindowShape(96, 128, 16, 3), 0).window(
        dataset_with_maps.clips[0], 20
    )
    assert window is not None
    assert window["density"].sum(dim=(1, 2)).tolist() == pytest.approx([1, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no frame of videos at .* can be trained on: 48 without density.*or maps of them as data.maps"),
        ({"data.maps": "nowhere"}, "no folder nowhere; expected maps by aerogaze label"),
        (
            {"data.maps": "."},
            "none of the maps is of a clip of videos at .*; expected maps of clips named as 1.avi",
        ),
    ],
)
def test_invalid_maps_are_reported_in_one_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "data.kind": "videos", "data.root": str(videos), "teachers.steps": "0", "students.steps": "0",
        "students.mu": "0", **changes,
    }  # fmt: skip
    with pytest.raises(InputError, match=message) as caught:
        train(load_recipe("skd-64", values))
    assert "\n" not in str(caught.value)


def test_videos_without_maps_need_a_trained_teacher(videos: Path) -> None:
    changes = {"data.kind": "videos", "data.root": str(videos)}
    with pytest.raises(InputError, match=r"set data\.maps, or teacher\.steps = 0 and teacher\.weights"):
        load_recipe("stream-96", changes)


def test_labelled_pairs_have_one_sample_per_map(videos: Path, maps: Path) -> None:
    dataset_with_maps = open_dataset("videos", videos).with_maps(open_maps(maps))
    pairs = LabelledPairs(dataset_with_maps, SkdSettings(64, "previous", "log_density"))
    assert len(pairs) == FRAMES
    assert pairs[3]["density"].sum().item() == pytest.approx(1, abs=1e-5)
