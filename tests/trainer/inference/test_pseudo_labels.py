"""Tests of pseudo-labelling: strides, faults, shares of the work, and resuming after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Outcome
from tests.support import dataset_trees
from tests.support.training import run_torchrun, short_skd_recipe
from trainer.data.map_shards import ShardedMaps
from trainer.datasets.factory import open_dataset
from trainer.inference.predictors import open_predictor
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student
from trainer.training.loop import TrainingRun
from trainer.training.run import train

Command = Callable[..., Outcome]


KILLED_IN_THE_THIRD_SHARD = """
import os, signal, sys
from edge.cli.main import run_cli
from trainer.data.map_shards import ShardWriter

write, written = ShardWriter.write, []

def write_two_shards_then_die(self, path, seconds):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(self, path, seconds)

ShardWriter.write = write_two_shards_then_die
sys.exit(run_cli(sys.argv[1:]))
"""


def save_student(path: Path, pair: Pair = "previous") -> Path:
    torch.manual_seed(3)
    network = SpatiotemporalNetwork().eval()
    Student("small", SkdSettings(32, pair, "log_density"), network, {}).save(path)
    return path


def label_arguments(model: str | Path, root: Path, out: Path, *options: str | Path) -> list[str]:
    required = ["--dataset", "videos", "--root", root, "--out", out, "--size", "32x32"]
    return ["label", *map(str, [model, *required, *options])]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for index in range(4):
        dataset_trees.write_video(tmp_path / "tree" / f"{index}" / "a.avi", 7)
    return tmp_path / "tree"


@pytest.mark.parametrize("pair", ["previous", "next"])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_labelled_maps_are_those_of_the_predictor(
    command: Command, tree: Path, tmp_path: Path, pair: Pair, stride: int
) -> None:
    model = save_student(tmp_path / "s.safetensors", pair)
    outcome = command(*label_arguments(model, tree, tmp_path / "o", "--stride", str(stride)))
    assert outcome.code == 0, outcome.err
    maps = ShardedMaps(tmp_path / "o")
    predictor = open_predictor(str(model))
    for clip in open_dataset("videos", tree).clips:
        assert maps.frames(clip.name).tolist() == list(range(0, 7, stride))
        for frame, saliency in predictor.predict(clip.name, clip.frames()):
            if frame.index % stride == 0:
                stored = maps.map(clip.name, frame.index)
                assert np.abs(stored - saliency).max() <= saliency.max() / 255 * 0.51 + 1e-5


def test_run_labels_with_both_teachers(command: Command, tree: Path, tmp_path: Path) -> None:
    train(short_skd_recipe(), TrainingRun(tmp_path / "run"))
    teachers = tmp_path / "run" / "teachers"
    assert command(*label_arguments(teachers, tree, tmp_path / "o", "--stride", "3")).code == 0
    maps = ShardedMaps(tmp_path / "o")
    assert maps.plan.maps == ("spatial", "temporal")
    for kind in maps.plan.maps:
        teacher = open_predictor(str(teachers / kind))
        clip = open_dataset("videos", tree).clips[0]
        expected = {f.index: m for f, m in teacher.predict(clip.name, clip.frames(), 3)}
        assert maps.frames(clip.name).tolist() == list(expected) == [0, 3, 6]
        assert expected[3].shape == (32, 48)
        assert maps.map(clip.name, 3, kind).mean() == pytest.approx(float(expected[3].mean()), rel=0.05)
    spatial, temporal = (maps.map("0/a.avi", 3, kind) for kind in maps.plan.maps)
    assert not np.array_equal(spatial, temporal)
    assert command(*label_arguments(teachers / "spatial", tree, tmp_path / "one")).code == 0
    assert ShardedMaps(tmp_path / "one").plan.maps == ("spatial",)
    outcome = command("evaluate", teachers, "--dataset", "videos", "--root", tree)
    assert f"holds two teachers; expected one of them: name {teachers}/spatial" in outcome.err
    for damaged in (teachers / "done.pt", tmp_path / "run" / "recipe.json"):
        damaged.write_bytes(b"")
        outcome = command(*label_arguments(teachers, tree, tmp_path / "p"))
        assert outcome.code == 2
        assert "holds no teachers that can be read" in outcome.err
        assert not (tmp_path / "p").exists()


def test_release_labels_each_clip_from_the_initial_state(
    command: Command, tree: Path, tmp_path: Path
) -> None:
    options = ["--precision", "fp32", "--max-frames", "5"]
    outcome = command(*label_arguments("skd-64", tree, tmp_path / "o", *options))
    assert outcome.code == 0, outcome.err
    maps = ShardedMaps(tmp_path / "o")
    assert maps.clips == {f"{index}/a.avi": 5 for index in range(4)}
    for frame in range(5):
        assert np.array_equal(maps.map("0/a.avi", frame), maps.map("3/a.avi", frame))


def test_corrupt_videos_are_reported_and_the_rest_labelled(
    command: Command, tree: Path, tmp_path: Path
) -> None:
    (tree / "0" / "a.avi").write_bytes(b"no film")
    dataset_trees.write_video(tree / "2" / "a.avi", 20)
    intact = (tree / "2" / "a.avi").read_bytes()
    (tree / "2" / "a.avi").write_bytes(intact[: len(intact) * 2 // 3])
    model = save_student(tmp_path / "s.safetensors")
    summary = tmp_path / "summary.json"
    outcome = command(*label_arguments(model, tree, tmp_path / "o", "--json", summary))
    assert outcome.code == 0, outcome.err
    faults = "0/a.avi: not readable as a video; 2/a.avi: the file is cut: it ends at"
    assert f"2 clips at fault: {faults}" in outcome.out
    document = json.loads(summary.read_text())
    assert sorted(document["faults"]) == ["0/a.avi", "2/a.avi"]
    assert (document["shards"], document["shards_done"], document["clips_done"]) == (1, 1, 4)
    maps = ShardedMaps(tmp_path / "o")
    assert maps.clips["0/a.avi"] == 0
    assert 0 < maps.clips["2/a.avi"] < 20
    assert maps.clips["3/a.avi"] == 7


def test_killed_labelling_resumes_and_loses_only_the_running_shard(command: Command, tmp_path: Path) -> None:
    for index in range(6):
        dataset_trees.write_video(tmp_path / "tree" / f"{index}.avi", 12)
    model = save_student(tmp_path / "s.safetensors")
    arguments = label_arguments(model, tmp_path / "tree", tmp_path / "o", "--clips-per-shard", "1")
    process = subprocess.run([sys.executable, "-c", KILLED_IN_THE_THIRD_SHARD, *arguments])
    assert process.returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("shard-*")}
    assert [path.name for path in sorted(finished)] == ["shard-000000.npz", "shard-000001.npz"]
    assert len(ShardedMaps(tmp_path / "o").clips) == 2
    (tmp_path / "o" / ".shard-000002.left.npz").write_bytes(b"half")
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    assert "wrote 4 of 6 shards" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    maps = ShardedMaps(tmp_path / "o")
    assert list(maps.clips.values()) == [12] * 6
    assert np.array_equal(maps.map("0.avi", 9), maps.map("5.avi", 9))
    names = [f"shard-{number:06d}.npz" for number in range(6)]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["labels.json", *names]


def test_shares_of_the_work_do_not_overlap(command: Command, tree: Path, tmp_path: Path) -> None:
    model = save_student(tmp_path / "s.safetensors")
    arguments = label_arguments(model, tree, tmp_path / "o", "--clips-per-shard", "1", "--shard")
    first = command(*arguments, "1/2").out
    assert "wrote 2 of 4 shards" in first
    assert first.splitlines()[-1] == (
        "next: the other shares, or the same command again, until all shards are written"
    )
    assert [path.name for path in sorted((tmp_path / "o").glob("shard-*"))] == [
        "shard-000001.npz",
        "shard-000003.npz",
    ]
    outcome = command(*arguments, "0/2")
    assert "wrote 2 of 4 shards" in outcome.out
    assert "holds 4: 4 clips, 28 frames" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("next: aerogaze train RECIPE --set data.kind=videos ")


def test_two_processes_share_the_work(tree: Path, tmp_path: Path) -> None:
    model = save_student(tmp_path / "s.safetensors")
    arguments = label_arguments(model, tree, tmp_path / "o", "--clips-per-shard", "1")
    process = run_torchrun("-m", "edge.cli.main", *arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.count("wrote 2 of 4 shards") == 2  # no process found shards of the other
    assert len(ShardedMaps(tmp_path / "o").clips) == 4


def test_shard_is_refused_where_torchrun_shares_the_work(
    command: Command, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    model = save_student(tmp_path / "s.safetensors")
    outcome = command(*label_arguments(model, tree, tmp_path / "o"), "--shard", "0/2")
    assert outcome.code == 2
    assert "torchrun or srun already shares the work: leave it out" in outcome.err


def test_resuming_with_another_model_size_or_tree_is_rejected(
    command: Command, tree: Path, tmp_path: Path
) -> None:
    model = save_student(tmp_path / "s.safetensors")
    assert command(*label_arguments(model, tree, tmp_path / "o")).code == 0
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir())

    def assert_rejected(message: str, *options: str) -> None:
        outcome = command(*label_arguments(model, tree, tmp_path / "o", *options))
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert message in outcome.err
        assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()) == before

    assert_rejected("holds other maps (width 32 there, 16 here", "--size", "16x32")
    assert_rejected("(stride 1 there, 2 here)", "--stride", "2")
    original = model.read_bytes()
    save_student(model, "next")
    assert_rejected("(sha256 ")
    model.write_bytes(original)
    dataset_trees.write_video(tree / "new.avi", 2)
    assert_rejected("(clips 4 there, 5 here; clips_sha256 ")


BAD = [
    (["--size", "64"], "--size '64' is not valid; expected WIDTHxHEIGHT with sides of 8 to 1024"),
    (["--size", "4x4"], "expected WIDTHxHEIGHT with sides of 8 to 1024"),
    (["--shard", "2/2"], "--shard 2/2: expected I/N with I from 0 to N - 1"),
    (["--precision", "fp32"], "is not a release; only a release has precisions"),
    (["--json", "/proc/none/s.json"], "cannot write /proc/none/s.json"),
    (["--stride", "0"], "0 is not in the range"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_exits_with_2_prints_one_line_and_writes_nothing(
    command: Command, tree: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    outcome = command(
        *label_arguments(save_student(tmp_path / "s.safetensors"), tree, tmp_path / "o", *options)
    )
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert not (tmp_path / "o").exists()


def test_two_clips_of_the_same_name_are_rejected(command: Command, tmp_path: Path) -> None:
    for split in ("training", "testing"):
        dataset_trees.write_frame(tmp_path / "t" / split / "Run" / "images" / "1.png", 0)
    model = save_student(tmp_path / "s.safetensors")
    arguments = ["label", model, "--dataset", "ucf-sports", "--root", tmp_path / "t", "--out", tmp_path / "o"]
    assert "has two clips named Run" in command(*arguments).err
    assert command(*arguments, "--split", "test").code == 0
