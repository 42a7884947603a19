"""Training on video that nobody labelled: a model's maps stand for the densities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.core.errors import InputError
from edge.metrics.saliency import cc
from edge.simulation.world import World
from tests.conftest import Outcome
from tests.support import dataset_trees as trees
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
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two made flights as video files, without labels."""
    root = tmp_path_factory.mktemp("videos")
    for seed in (1, 2):
        writer = cv2.VideoWriter(str(root / f"{seed}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (128, 96))
        world = World(seed, 128, 96)
        for index in range(FRAMES):
            writer.write(world.frame(index).image)
        writer.release()
    return root


@pytest.fixture(scope="module")
def maps(flights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their maps by a shipped student, of every second frame."""
    from edge.cli.main import run_cli

    out = tmp_path_factory.mktemp("maps") / "maps"
    words = ["label", "skd-64", "--dataset", "videos", "--root", flights, "--out", out, "--stride", "2"]
    assert run_cli(list(map(str, words))) == 0
    return out


def test_a_frame_without_density_has_its_map(flights: Path, maps: Path) -> None:
    bare = open_dataset("videos", flights)
    taught = bare.with_maps(open_maps(maps))
    labels = ShardedMaps(maps)
    for clip in taught.clips:
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
    assert bare.clips[0].labelled_frames("density") == []


def test_a_density_goes_before_a_map(tmp_path: Path) -> None:
    root = trees.dhf1k(tmp_path / "d", [1], frames=4)
    dataset = open_dataset("dhf1k", root)
    ground = next(root.rglob("maps"))
    (ground / "0003.png").unlink()
    taught = dataset.with_maps(open_maps(drawn(tmp_path / "maps", dataset.clips[0].name, range(4))))
    pairs = list(zip(dataset.clips[0].frames(), taught.clips[0].frames(), strict=True))
    for own, given in pairs:
        assert given.density is not None
        if own.index == 2:
            assert own.density is None
            np.testing.assert_allclose(given.density, 0.2, atol=1e-6)
        else:
            assert own.density is not None
            assert np.array_equal(own.density, given.density)
    assert dataset.missing_labels() == {"density": {dataset.clips[0].name: 1}}
    assert "density" not in taught.missing_labels()


def drawn(folder: Path, clip: str, frames: Iterable[int]) -> Path:
    """Write a map, alike everywhere, for some frames of a clip."""
    for index in frames:
        path = folder / clip / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), 51, np.uint8))
    return folder


def test_maps_of_a_longer_cut_and_clips_without_any_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trees.film(tmp_path / "films" / f"{name}.avi", 6)
    bare = open_dataset("videos", tmp_path / "films")
    assert bare.clips[0].labelled_frames("density") == []
    taught = bare.with_maps(open_maps(drawn(tmp_path / "maps", "a.avi", (4, 5, 6, 400))))
    assert [clip.name for clip in taught.clips] == ["a.avi"]
    assert taught.clips[0].labelled_frames("density") == [4, 5]
    pairs = LabelledPairs(taught, SkdSettings(32, "previous", "density"))
    assert (len(pairs), pairs.frames_without_density) == (2, 4)


def test_a_damaged_map_is_recorded_and_its_neighbours_are_trained_on(tmp_path: Path) -> None:
    trees.film(tmp_path / "films" / "a.avi", 6)
    maps = drawn(tmp_path / "maps", "a.avi", range(6))
    (maps / "a.avi" / "000002.png").write_bytes(b"no picture")
    taught = open_dataset("videos", tmp_path / "films").with_maps(open_maps(maps))
    pairs = LabelledPairs(taught, SkdSettings(32, "previous", "density"))
    shown = [float((pairs[index]["frame"].mean() + 1) * 127.5) for index in (1, 2, 3)]
    assert shown == pytest.approx([15, 35, 35], abs=3), "frame 3 stands in for frame 2"
    assert [fault for fault in taught.describe_faults() if "000002.png cannot be read" in fault]


def test_windows_end_where_there_is_a_map(tmp_path: Path) -> None:
    trees.film(tmp_path / "films" / "a.avi", 40)
    bare = open_dataset("videos", tmp_path / "films")
    taught = bare.with_maps(open_maps(drawn(tmp_path / "maps", "a.avi", (20, 35))))
    shape = WindowShape(32, 32, 4, 1)
    assert {taught.clips[0].nearest_labelled(index) for index in range(40)} == {20, 35}
    assert taught.clips[0].nearest_labelled(27) == 20
    assert bare.clips[0].nearest_labelled(27) == 27
    assert all(WindowDataset(taught, shape, 0)[index]["density"].any() for index in range(10))


def test_a_run_begun_before_a_recipe_could_say_so_much_goes_on(tmp_path: Path) -> None:
    recipe = load_recipe("stream-96")
    open_run(TrainingRun(tmp_path / "run"), recipe)
    kept = tmp_path / "run" / "recipe.json"
    document = json.loads(kept.read_text())
    assert document["data"].pop("maps") is None
    kept.write_text(json.dumps(document))
    open_run(TrainingRun(tmp_path / "run"), recipe)
    for spoilt in ({**document, "seed": 2}, {"name": "stream-96"}):
        kept.write_text(json.dumps(spoilt))
        with pytest.raises(InputError, match="holds the training of another recipe"):
            open_run(TrainingRun(tmp_path / "run"), recipe)


def test_two_teachers_maps_are_averaged(tmp_path: Path) -> None:
    from trainer.data.teacher_maps import _ShardMaps

    class Two:
        def frames(self, clip: str) -> np.ndarray:
            return np.array([0], np.int32)

        def map(self, clip: str, frame: int, name: str) -> np.ndarray:
            return np.full((2, 2), {"spatial": 0.25, "temporal": 1.75}[name], np.float32)

    found = _ShardMaps(Two(), ["spatial", "temporal"]).map("a", 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, (0.25 + 1) / 2)


def test_skd_learns_the_maps_of_unlabelled_video(
    command: Command, flights: Path, maps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.safetensors"
    changes = {
        "data.kind": "videos", "data.root": flights, "data.maps": maps, "data.mirror": "false",
        "teachers.steps": "0", "students.steps": "0", "students.mu": "0", "workers": "0", "mixed": "false",
        "network.steps": "60", "network.batch": "12", "network.rate": "5e-3", "network.average": "0",
    }  # fmt: skip
    sets = (word for key, value in changes.items() for word in ("--set", f"{key}={value}"))
    outcome = command("train", "skd-64", "--out", out, *sets)
    assert outcome.code == 0, outcome.err
    assert f"{FRAMES} frames, left out {FRAMES} without density" in outcome.out
    labels, likeness = ShardedMaps(maps), {}
    untrained = tmp_path / "u.safetensors"
    settings = load_student(out).settings
    assert isinstance(settings, SkdSettings)
    Student("u", settings, SpatiotemporalNetwork().eval(), {}).save(untrained)
    for model in (out, untrained):
        found = []
        for clip in open_dataset("videos", flights).clips:
            for frame, saliency in open_predictor(str(model)).predict(clip.name, clip.frames()):
                if frame.index % 2 == 0:
                    wanted = labels.map(clip.name, frame.index)
                    found.append(cc(cv2.resize(saliency, wanted.shape[::-1]), wanted))
        likeness[model] = float(np.mean(found))
    assert likeness[out] > 0.6
    assert likeness[out] > likeness[untrained] + 0.3


def test_clip_networks_and_their_teacher_learn_the_maps(flights: Path, maps: Path) -> None:
    losses: list[float] = []
    recipe = load_recipe(
        "stream-96",
        {
            "data.kind": "videos", "data.root": str(flights), "data.maps": str(maps), "workers": "0",
            "mixed": "false", "student.imagenet": "false", "teacher.steps": "1", "teacher.batch": "2",
            "assistants.steps": "1", "assistants.batch": "2", "assistants.rc": "[2]",
            "distillation.steps": "2", "distillation.batch": "2",
        },
    )  # fmt: skip
    student = train(recipe, TrainingRun(on_step=lambda progress: losses.append(progress.loss)))
    assert student.trained["data"] == "videos with maps"
    assert np.isfinite(losses).all()
    taught = open_dataset("videos", flights).with_maps(open_maps(maps))
    window = WindowDataset(taught, WindowShape(96, 128, 16, 3), 0).window(taught.clips[0], 20)
    assert window is not None
    assert window["density"].sum(dim=(1, 2)).tolist() == pytest.approx([1, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no frame of videos at .* can be trained on: 48 without density.*or maps for them as data.maps"),
        ({"data.maps": "nowhere"}, "no folder nowhere; expected maps by aerogaze label"),
        (
            {"data.maps": "."},
            "none of the maps is of a clip of videos at .*; expected maps of clips named as 1.avi",
        ),
    ],
)
def test_what_is_wrong_is_one_clear_line(
    flights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {
        "data.kind": "videos", "data.root": str(flights), "teachers.steps": "0", "students.steps": "0",
        "students.mu": "0", **changes,
    }  # fmt: skip
    with pytest.raises(InputError, match=message) as caught:
        train(load_recipe("skd-64", words))
    assert "\n" not in str(caught.value)


def test_videos_without_maps_need_a_teacher_that_is_trained(flights: Path) -> None:
    words = {"data.kind": "videos", "data.root": str(flights)}
    with pytest.raises(InputError, match=r"set data\.maps, or teacher\.steps = 0 and teacher\.weights"):
        load_recipe("stream-96", words)


def test_pairs_have_a_sample_for_each_map(flights: Path, maps: Path) -> None:
    taught = open_dataset("videos", flights).with_maps(open_maps(maps))
    found = LabelledPairs(taught, SkdSettings(64, "previous", "log_density"))
    assert len(found) == FRAMES
    assert found[3]["density"].sum().item() == pytest.approx(1, abs=1e-5)
