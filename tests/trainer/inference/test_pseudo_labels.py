"""Labelling: strides, faults, shares, and work that is killed and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.trainer.training.test_loop import torchrun
from tests.trainer.training.test_skd import quick
from trainer.data.map_shards import LabelledMaps
from trainer.datasets.factory import open_dataset
from trainer.inference.predictors import open_predictor
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student
from trainer.training.loop import Run
from trainer.training.run import train

Command = Callable[..., Outcome]


def student(path: Path, pair: Pair = "previous") -> Path:
    torch.manual_seed(3)
    network = SpatiotemporalNetwork().eval()
    Student("small", SkdSettings(32, pair, "log_density"), network, {}).save(path)
    return path


def words(model: str | Path, root: Path, out: Path, *more: str | Path) -> list[str]:
    places = ["--dataset", "videos", "--root", root, "--out", out, "--size", "32x32"]
    return ["label", *map(str, [model, *places, *more])]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for index in range(4):
        trees.film(tmp_path / "tree" / f"{index}" / "a.avi", 7)
    return tmp_path / "tree"


@pytest.mark.parametrize("pair", ["previous", "next"])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_maps_are_those_of_evaluate(
    command: Command, tree: Path, tmp_path: Path, pair: Pair, stride: int
) -> None:
    model = student(tmp_path / "s.safetensors", pair)
    outcome = command(*words(model, tree, tmp_path / "o", "--stride", str(stride)))
    assert outcome.code == 0, outcome.err
    maps = LabelledMaps(tmp_path / "o")
    predictor = open_predictor(str(model))
    for clip in open_dataset("videos", tree).clips:
        assert maps.frames(clip.name).tolist() == list(range(0, 7, stride))
        for frame, saliency in predictor.maps(clip.name, clip.frames()):
            if frame.index % stride == 0:
                found = maps.map(clip.name, frame.index)
                assert np.abs(found - saliency).max() <= saliency.max() / 255 * 0.51 + 1e-5


def test_both_teachers_of_a_run_label(command: Command, tree: Path, tmp_path: Path) -> None:
    train(quick(), Run(tmp_path / "run"))
    teachers = tmp_path / "run" / "teachers"
    assert command(*words(teachers, tree, tmp_path / "o", "--stride", "3")).code == 0
    maps = LabelledMaps(tmp_path / "o")
    assert maps.plan.maps == ("spatial", "temporal")
    for kind in maps.plan.maps:
        one = open_predictor(str(teachers / kind))
        clip = open_dataset("videos", tree).clips[0]
        told = {f.index: m for f, m in one.maps(clip.name, clip.frames(), 3)}
        assert maps.frames(clip.name).tolist() == list(told) == [0, 3, 6]
        assert told[3].shape == (32, 48)
        assert maps.map(clip.name, 3, kind).mean() == pytest.approx(float(told[3].mean()), rel=0.05)
    spatial, temporal = (maps.map("0/a.avi", 3, kind) for kind in maps.plan.maps)
    assert not np.array_equal(spatial, temporal)
    assert command(*words(teachers / "spatial", tree, tmp_path / "one")).code == 0
    assert LabelledMaps(tmp_path / "one").plan.maps == ("spatial",)
    outcome = command("evaluate", teachers, "--dataset", "videos", "--root", tree)
    assert f"holds two teachers; name one: {teachers}/spatial" in outcome.err
    (tmp_path / "run" / "recipe.json").unlink()
    outcome = command(*words(teachers, tree, tmp_path / "p"))
    assert outcome.code == 2
    assert "holds no teachers that can be read" in outcome.err
    assert not (tmp_path / "p").exists()


def test_a_release_labels_each_clip_from_a_fresh_start(command: Command, tree: Path, tmp_path: Path) -> None:
    outcome = command(*words("skd-64", tree, tmp_path / "o", "--precision", "fp32", "--max-frames", "5"))
    assert outcome.code == 0, outcome.err
    maps = LabelledMaps(tmp_path / "o")
    assert maps.clips == {f"{index}/a.avi": 5 for index in range(4)}
    for frame in range(5):
        assert np.array_equal(maps.map("0/a.avi", frame), maps.map("3/a.avi", frame))


def test_corrupt_videos_are_named_and_the_rest_labelled(command: Command, tree: Path, tmp_path: Path) -> None:
    (tree / "0" / "a.avi").write_bytes(b"no film")
    trees.film(tree / "2" / "a.avi", 20)
    whole = (tree / "2" / "a.avi").read_bytes()
    (tree / "2" / "a.avi").write_bytes(whole[: len(whole) * 2 // 3])
    model = student(tmp_path / "s.safetensors")
    told = tmp_path / "told.json"
    outcome = command(*words(model, tree, tmp_path / "o", "--json", told))
    assert outcome.code == 0, outcome.err
    assert "2 clips at fault: 0/a.avi: not readable as a video; 2/a.avi: ends at frame" in outcome.out
    document = json.loads(told.read_text())
    assert sorted(document["faults"]) == ["0/a.avi", "2/a.avi"]
    assert (document["shards"], document["shards_done"], document["clips_done"]) == (1, 1, 4)
    maps = LabelledMaps(tmp_path / "o")
    assert maps.clips["0/a.avi"] == 0
    assert 0 < maps.clips["2/a.avi"] < 20
    assert maps.clips["3/a.avi"] == 7


def test_a_kill_costs_the_running_shard_at_most(command: Command, tmp_path: Path) -> None:
    for index in range(6):
        trees.film(tmp_path / "tree" / f"{index}.avi", 150)
    model = student(tmp_path / "s.safetensors")
    call = words(model, tmp_path / "tree", tmp_path / "o", "--clips-per-shard", "1")
    process = subprocess.Popen([sys.executable, "-m", "edge.cli.main", *call])
    until = time.monotonic() + 120
    while (
        len(list((tmp_path / "o").glob("shard-*"))) < 2
        and process.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("shard-*")}
    assert 2 <= len(done) < 6
    assert len(LabelledMaps(tmp_path / "o").clips) == len(done)
    (tmp_path / "o" / f".shard-{len(done):06d}.left.npz").write_bytes(b"half")
    outcome = command(*call)
    assert outcome.code == 0, outcome.err
    assert f"wrote {6 - len(done)} of 6 shards" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in done} == done
    maps = LabelledMaps(tmp_path / "o")
    assert list(maps.clips.values()) == [150] * 6
    assert np.array_equal(maps.map("0.avi", 9), maps.map("5.avi", 9))
    names = [f"shard-{number:06d}.npz" for number in range(6)]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["labels.json", *names]


def test_shares_do_not_overlap(command: Command, tree: Path, tmp_path: Path) -> None:
    model = student(tmp_path / "s.safetensors")
    call = words(model, tree, tmp_path / "o", "--clips-per-shard", "1", "--shard")
    assert "wrote 2 of 4 shards" in command(*call, "1/2").out
    assert [path.name for path in sorted((tmp_path / "o").glob("shard-*"))] == [
        "shard-000001.npz",
        "shard-000003.npz",
    ]
    outcome = command(*call, "0/2")
    assert "wrote 2 of 4 shards" in outcome.out
    assert "holds 4: 4 clips, 28 frames" in outcome.out


def test_two_processes_share_the_work(tree: Path, tmp_path: Path) -> None:
    model = student(tmp_path / "s.safetensors")
    call = words(model, tree, tmp_path / "o", "--clips-per-shard", "1")
    done = torchrun("-m", "edge.cli.main", *call)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote 2 of 4 shards") == 2  # each its own: none was found done
    assert len(LabelledMaps(tmp_path / "o").clips) == 4
    assert "leave it out" in torchrun("-m", "edge.cli.main", *call, "--shard", "0/2").stderr


def test_another_model_size_or_tree_is_refused(command: Command, tree: Path, tmp_path: Path) -> None:
    model = student(tmp_path / "s.safetensors")
    assert command(*words(model, tree, tmp_path / "o")).code == 0
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir())

    def refused(message: str, *more: str) -> None:
        outcome = command(*words(model, tree, tmp_path / "o", *more))
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert message in outcome.err
        assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()) == before

    refused("holds other maps (width 32 there, 16 here", "--size", "16x32")
    refused("(stride 1 there, 2 here)", "--stride", "2")
    whole = model.read_bytes()
    student(model, "next")
    refused("(sha256 ")
    model.write_bytes(whole)
    trees.film(tree / "new.avi", 2)
    refused("(clips 4 there, 5 here; clips_sha256 ")


BAD = [
    (["--size", "64"], "--size '64' is not understood; expected WIDTHxHEIGHT with sides of 8 to 1024"),
    (["--size", "4x4"], "expected WIDTHxHEIGHT with sides of 8 to 1024"),
    (["--shard", "2/2"], "--shard 2/2: expected I/N with I from 0 to N - 1"),
    (["--precision", "fp32"], "is no release; only a release has precisions"),
    (["--json", "/proc/none/s.json"], "cannot write /proc/none/s.json"),
    (["--stride", "0"], "0 is not in the range"),
]


@pytest.mark.parametrize(("more", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line_and_writes_nothing(
    command: Command, tree: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    outcome = command(*words(student(tmp_path / "s.safetensors"), tree, tmp_path / "o", *more))
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert not (tmp_path / "o").exists()


def test_two_clips_of_a_name_are_refused(command: Command, tmp_path: Path) -> None:
    for place in ("training", "testing"):
        trees.picture(tmp_path / "t" / place / "Run" / "images" / "1.png", 0)
    model = student(tmp_path / "s.safetensors")
    call = ["label", model, "--dataset", "ucf-sports", "--root", tmp_path / "t", "--out", tmp_path / "o"]
    assert "has two clips named Run" in command(*call).err
    assert command(*call, "--split", "test").code == 0
