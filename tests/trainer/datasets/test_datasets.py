"""Tests of the readers on small trees of their layouts, on wrong and damaged trees, and on real samples."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from edge.core.errors import InputError
from tests.support import dataset_trees as trees
from tests.support.bags import compressed, flight, raw, write_bag
from trainer.datasets.clips import DatasetClip
from trainer.datasets.factory import READERS, open_dataset
from trainer.datasets.matlab_maps import read_mat_file
from trainer.evaluation.scores import evaluate_predictor
from trainer.inference.predictors import open_predictor

SHAPE = (trees.HEIGHT, trees.WIDTH)


def _indices(clip: DatasetClip, start: int = 0, stop: int | None = None) -> list[int]:
    """Return the indices of the frames, after checking that each image is that of its index."""
    frames = list(clip.frames(start, stop))
    assert all(abs(int(f.image.mean()) - 10 * f.index - 5) <= 2 for f in frames)
    assert all(f.image.shape == (*SHAPE, 3) and f.image.dtype == np.uint8 for f in frames)
    return [frame.index for frame in frames]


@pytest.fixture
def avs1k(tmp_path: Path) -> Path:
    for folder, name in (("trainSet", "Human_00001"), ("validSet", "Others_00002"), ("testSet", "Car_00003")):
        for index in range(12):
            stem = f"{name}_{index + 1:05d}.png"
            trees.write_frame(tmp_path / folder / "Frame" / name / stem, index)
            trees.write_density(tmp_path / folder / "Ground" / name / stem, 20, 30)
    return tmp_path


def test_avs1k_reads_splits_frames_and_densities(avs1k: Path) -> None:
    dataset = open_dataset("avs1k", avs1k)
    assert [(c.name, c.split) for c in dataset.clips] == [
        ("Human_00001", "train"),
        ("Others_00002", "val"),
        ("Car_00003", "test"),
    ]
    (clip,) = open_dataset("avs1k", avs1k, "test").clips
    assert _indices(clip) == list(range(12))
    frame = next(clip.frames(3, 5))
    assert frame.index == 3
    assert frame.density is not None
    assert frame.density.dtype == np.float32
    assert frame.density.max() == frame.density[20, 30] == 1
    assert frame.fixations is None
    assert frame.box is None
    assert "no fixations for 36 frames of 3 clips: Human_00001, Others_00002, Car_00003" in dataset.summary()


def test_avs1k_reads_fixations_where_present(avs1k: Path) -> None:
    path = avs1k / "testSet" / "Fixation" / "Car_00003" / "Car_00003_00002.png"
    trees.write_fixations(path, [(4, 5), (4, 6)])
    dataset = open_dataset("avs1k", avs1k, "test")
    frames = list(dataset.clips[0].frames(0, 2))
    assert frames[0].fixations is None
    assert frames[1].fixations is not None
    assert frames[1].fixations.tolist() == [[4, 5], [4, 6]]
    assert dataset.missing_labels() == {"fixations": {"Car_00003": 11}}


def test_dhf1k_splits_by_number(tmp_path: Path) -> None:
    trees.write_dhf1k(tmp_path, [1, 600, 601, 700])
    trees.write_dhf1k(tmp_path, [701], labelled=False)
    dataset = open_dataset("dhf1k", tmp_path)
    assert [(c.name, c.split) for c in dataset.clips] == [
        ("001", "train"),
        ("600", "train"),
        ("601", "val"),
        ("700", "val"),
        ("701", "test"),
    ]
    first = dataset.clips[0]
    assert len(first) == 4
    assert _indices(first) == [0, 1, 2, 3]
    assert _indices(first, 2) == [2, 3]
    frame = list(first.frames())[3]
    assert frame.fixations is not None
    assert frame.fixations.tolist() == [[8, 25], [9, 25]]
    assert frame.density is not None
    assert frame.density.shape == SHAPE
    assert first.relative_fixations(3) == pytest.approx(
        np.array([[8.5 / 48, 25.5 / 64], [9.5 / 48, 25.5 / 64]])
    )
    assert dataset.missing_labels() == {"density": {"701": 4}, "fixations": {"701": 4}}


def test_dhf1k_reads_images_without_video(tmp_path: Path) -> None:
    for index in range(3):
        trees.write_frame(tmp_path / "annotation" / "0007" / "images" / f"{index + 1:04d}.png", index)
        trees.write_density(tmp_path / "annotation" / "0007" / "maps" / f"{index + 1:04d}.png", 20, 30)
    (clip,) = open_dataset("dhf1k", tmp_path, "train").clips
    assert (clip.name, _indices(clip)) == ("007", [0, 1, 2])
    assert next(clip.frames()).density is not None


def test_dhf1k_reads_fixations_from_mat_files(tmp_path: Path) -> None:
    fixation = trees.write_dhf1k(tmp_path, [1], frames=5) / "annotation" / "0001" / "fixation"
    (fixation / "maps").mkdir()
    for index in range(5):
        matrix = np.zeros(SHAPE, (np.uint8, np.bool_, np.float64)[index % 3])
        matrix[[20, 21], [30, 40 + index]] = 1
        savemat(fixation / "maps" / f"{index + 1:04d}.mat", {"I": matrix}, do_compression=index > 2)
        if index:
            (fixation / f"{index + 1:04d}.png").unlink()
    dataset = open_dataset("dhf1k", tmp_path)
    (clip,) = dataset.clips
    fixations = [None if f.fixations is None else f.fixations.tolist() for f in clip.frames()]
    assert fixations == [[[8, 10], [9, 10]], *([[20, 30], [21, 40 + index]] for index in range(1, 5))]
    assert clip.labelled_frames("fixations") == list(range(5))
    assert clip.relative_fixations(1).shape == (2, 2)
    assert (dataset.missing_labels(), dataset.faults) == ({}, {})


def test_unreadable_mat_files_are_recorded(tmp_path: Path) -> None:
    maps = trees.write_dhf1k(tmp_path, [1], frames=5) / "annotation" / "0001" / "fixation" / "maps"
    maps.mkdir()
    for path in maps.parent.glob("*.png"):
        path.unlink()
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x02IM"
    (maps / "0001.mat").write_bytes(header + bytes(384) + b"\x89HDF\r\n\x1a\n")
    (maps / "0002.mat").write_bytes(b"no matrix")
    savemat(maps / "0003.mat", {"J": np.ones(SHAPE)})
    savemat(maps / "0004.mat", {"I": np.ones((2, 2))})
    dataset = open_dataset("dhf1k", tmp_path)
    assert [frame.fixations for frame in dataset.clips[0].frames()] == [None] * 5
    assert {path.name: why for path, why in dataset.faults.items()} == {
        "0001.mat": "MATLAB 7.3 (HDF5) is not supported: save it with -v7, or as PNG",
        "0002.mat": "not readable as a .mat file",
        "0003.mat": "has no matrix of numbers named I",
        "0004.mat": "2x2 pixels, but its frame is 64x48",
    }
    assert dataset.missing_labels() == {"fixations": {"001": 1}}


def test_mat_file_without_scipy_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"0001\.mat needs scipy, .*: pip install 'aerogaze\[train\]'"):
        read_mat_file(tmp_path / "0001.mat")


@pytest.mark.parametrize("kind", ["ucf-sports", "hollywood2"])
def test_ucf_sports_and_hollywood2_read_blob_fixations(kind: str, tmp_path: Path) -> None:
    for folder, name in (("training", "Run-Side-001"), ("testing", "Diving-Side-001")):
        clip_folder = tmp_path / folder / name
        for index in range(3):
            stem = f"{name}_{index + 1:03d}"
            trees.write_frame(clip_folder / "images" / f"{stem}.{'jpg' if index == 1 else 'png'}", index)
            trees.write_density(clip_folder / "maps" / f"{stem}.png", 20, 30)
            trees.write_fixations(clip_folder / "fixation" / f"{stem}.png", [(10, 12), (30, 40)], radius=1)
    dataset = open_dataset(kind, tmp_path)
    assert [(c.name, c.split) for c in dataset.clips] == [
        ("Run-Side-001", "train"),
        ("Diving-Side-001", "test"),
    ]
    assert _indices(dataset.clips[1]) == [0, 1, 2]
    for frame in dataset.clips[1].frames():
        assert frame.density is not None
        assert frame.fixations is not None
        assert frame.fixations.tolist() == [[10, 12], [30, 40]]
    assert dataset.summary() == f"{kind} at {tmp_path}: 2 clips, 6 frames"


def test_videos_are_read_without_labels(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "run" / "a.avi", 3)
    trees.write_video(tmp_path / "b.AVI", 2)
    (tmp_path / "notes.txt").touch()
    dataset = open_dataset("videos", tmp_path)
    assert [(c.name, c.split, len(c)) for c in dataset.clips] == [("b.AVI", None, 2), ("run/a.avi", None, 3)]
    assert _indices(dataset.clips[1]) == [0, 1, 2]
    frame = next(dataset.clips[1].frames())
    assert (frame.density, frame.fixations, frame.box) == (None, None, None)
    assert dataset.missing_labels() == {}


def test_boxes_are_read_per_frame(tmp_path: Path) -> None:
    trees.write_boxes(tmp_path, ["car1", "car2"])
    (tmp_path / "car2" / "boxes.txt").write_text("1,2,3,4\nnan,nan,nan,nan\n1.5,2,3,4\n")
    dataset = open_dataset("boxes", tmp_path)
    assert [frame.box for frame in dataset.clips[1].frames()] == [(1, 2, 3, 4), None, (1.5, 2, 3, 4), None]
    assert dataset.missing_labels() == {"box": {"car2": 2}}
    assert "car2/boxes.txt: 3 lines for 4 frames" in dataset.describe_faults()


@pytest.mark.parametrize(
    "text",
    [
        "\n1,2,3,4\n\n5,6,7,8\n",
        "\n1,2,3,4\n\n5,6,7,8",
        "\n1,2,3,4\n   \n5,6,7,8\n\n\n",
        "nan,nan,nan,nan\n1, 2, 3, 4\n\t\n5 ,6 ,7 ,8\n",
        "\n1\t2\t3\t4\n\n5\t6\t7\t8\n",
        "\n1 2 3 4\n\n 5  6 7   8 \n",
        "\r\n1,2,3,4\r\n\r\n5,6,7,8\r\n",
        "\r1;2;3;4\r\r5;6;7;8\r",
        ",,,\n1,2,3,4\n\t\t\t\n5,6,7,8\n",
        "\ufeff\n1,2,3,4\n\n5,6,7,8\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_blank_line_of_boxes_is_a_frame_without_the_target(tmp_path: Path, text: str, encoding: str) -> None:
    trees.write_boxes(tmp_path, ["car1"])
    data = text.removeprefix("\ufeff").encode("utf-16") if encoding == "utf-16" else text.encode()
    (tmp_path / "car1" / "boxes.txt").write_bytes(data)
    dataset = open_dataset("boxes", tmp_path)
    assert [frame.box for frame in dataset.clips[0].frames()] == [None, (1, 2, 3, 4), None, (5, 6, 7, 8)]
    assert dataset.describe_faults() == []
    assert dataset.missing_labels() == {"box": {"car1": 2}}


def test_last_frames_may_have_blank_lines_of_boxes(tmp_path: Path) -> None:
    trees.write_boxes(tmp_path, ["car1"])
    (tmp_path / "car1" / "boxes.txt").write_text("1,2,3,4\n5,6,7,8\n\n\n")
    dataset = open_dataset("boxes", tmp_path)
    assert [frame.box for frame in dataset.clips[0].frames()] == [(1, 2, 3, 4), (5, 6, 7, 8), None, None]
    assert dataset.describe_faults() == []


def test_evaluation_names_label_maps_of_another_size(tmp_path: Path) -> None:
    trees.write_dhf1k(tmp_path, [1])
    for path in (tmp_path / "annotation").rglob("*.png"):
        trees.write_density(path, 20, 30, height=96)
    with pytest.raises(
        InputError, match=r"can be used \(the first fault: .*png: 64x96 pixels, but its frame is"
    ):
        evaluate_predictor(open_dataset("dhf1k", tmp_path), open_predictor("skd-32"))


def test_malformed_boxes_are_rejected(tmp_path: Path) -> None:
    trees.write_boxes(tmp_path, ["car1"])
    for damaged in ("1,2,3\n", "1,2,3,x\n", "1,2,3,4\n5,6,7\n", "1,,3,4\n", "1,2,3,4,\n", "\udcff"):
        (tmp_path / "car1" / "boxes.txt").write_text(damaged, errors="surrogateescape")
        with pytest.raises(InputError, match=r"car1/boxes\.txt is malformed .*expected a line x,y,w,h"):
            open_dataset("boxes", tmp_path)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("avs1k", "{trainSet,validSet,testSet}/Frame/<clip>/*.png"),
        ("dhf1k", "video/001.AVI"),
        ("ucf-sports", "{training,testing}/<clip>/images/*.png"),
        ("hollywood2", "{training,testing}/<clip>/images/*.png"),
        ("videos", "**/*{.avi,"),
        ("boxes", "<clip>/frames/*.jpg and <clip>/boxes.txt"),
    ],
)
def test_wrong_root_is_rejected_with_expected_layout(kind: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError) as caught:
        open_dataset(kind, tmp_path)
    assert f"expected {tmp_path}/{expected}" in str(caught.value)
    with pytest.raises(
        InputError, match=f"no folder {tmp_path}/none; expected the root of a {kind} data set"
    ):
        open_dataset(kind, tmp_path / "none")


def test_unknown_kind_or_split_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'kitti'; expected one of avs1k, dhf1k"):
        open_dataset("kitti", tmp_path)
    trees.write_dhf1k(tmp_path / "d", [1, 650])
    with pytest.raises(InputError, match="has no split 'test'; it has train, val"):
        open_dataset("dhf1k", tmp_path / "d", "test")
    trees.write_boxes(tmp_path / "b", ["car1"])
    with pytest.raises(InputError, match="boxes has no splits: leave the split out"):
        open_dataset("boxes", tmp_path / "b", "test")


def test_corrupt_images_are_skipped_and_recorded(avs1k: Path) -> None:
    frames = avs1k / "testSet" / "Frame" / "Car_00003"
    (frames / "Car_00003_00002.png").write_bytes(b"no picture")
    (frames / "Car_00003_00005.png").write_bytes(b"")
    (avs1k / "testSet" / "Ground" / "Car_00003" / "Car_00003_00001.png").write_bytes(b"no map")
    dataset = open_dataset("avs1k", avs1k, "test")
    assert _indices(dataset.clips[0]) == [0, 2, 3, *range(5, 12)]
    assert next(dataset.clips[0].frames()).density is None
    assert len(dataset.faults) == 3
    assert "3 files at fault: " in dataset.summary()
    assert (
        "testSet/Frame/Car_00003/Car_00003_00002.png: not readable as an image" in dataset.describe_faults()
    )


def test_label_of_another_size_is_ignored_and_recorded(tmp_path: Path) -> None:
    trees.write_dhf1k(tmp_path, [1])
    path = tmp_path / "annotation" / "0001" / "maps" / "0001.png"
    trees.write_density(path, 20, 30, height=96)
    dataset = open_dataset("dhf1k", tmp_path)
    assert next(dataset.clips[0].frames()).density is None
    assert dataset.faults[path] == "64x96 pixels, but its frame is 64x48"


def test_truncated_and_unreadable_videos_are_recorded(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "cut.avi", 20)
    intact = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(intact[: len(intact) * 2 // 3])
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    dataset = open_dataset("videos", tmp_path)
    broken, cut = dataset.clips
    assert (len(broken), _indices(broken)) == (0, [])
    indices = _indices(cut)
    assert 3 < len(indices) < 20
    assert dataset.faults[tmp_path / "broken.mp4"] == "not readable as a video"
    assert (
        dataset.faults[tmp_path / "cut.avi"]
        == f"the file is cut: it ends at frame {len(indices)} of the {len(cut)} it announces"
    )


def test_videos_that_are_no_files_are_recorded(tmp_path: Path) -> None:
    trees.write_video(tmp_path / "A.AVI", 3)
    trees.write_video(tmp_path / "12:00.avi", 3)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "missing.mp4")
    os.mkfifo(tmp_path / "pipe.mkv")
    dataset = open_dataset("videos", tmp_path)
    assert [(clip.name, len(_indices(clip))) for clip in dataset.clips] == [("12:00.avi", 3), ("A.AVI", 3)]
    assert {path.name for path in dataset.faults} == {"dead.mp4", "pipe.mkv"}


@pytest.mark.parametrize("codec", ["MJPG", "XVID"])
def test_damage_inside_a_video_loses_only_the_damaged_frames(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    trees.write_video(path, 24, codec)
    trees.corrupt_frames(path, {7, 8, 15})
    dataset = open_dataset("videos", tmp_path)
    (clip,) = dataset.clips
    intact = [index for index in range(24) if index not in (7, 8, 15)]
    for start, stop in [(0, 24), *((start, start + 3) for start in range(22))]:
        read = list(clip.images(start, stop))
        assert [index for index, _ in read] == [index for index in intact if start <= index < stop]
        if codec == "MJPG":  # in XVID, frames depend on the lost ones
            assert all(abs(int(image.mean()) - 10 * index - 5) <= 2 for index, image in read)
        assert set(dataset.faults) == {path}
    assert dataset.faults == {path: "3 frames cannot be decoded: 7, 8, 15"}


def test_video_damaged_at_both_ends_is_read_between(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    trees.write_video(path, 12)
    trees.corrupt_frames(path, {0, 10, 11})
    dataset = open_dataset("videos", tmp_path)
    (clip,) = dataset.clips
    assert _indices(clip, 10, 11) == []
    assert dataset.faults == {path: "1 frame cannot be decoded: 10"}
    assert _indices(clip) == list(range(1, 10))
    assert dataset.faults == {
        path: "1 frame cannot be decoded: 0; 2 frames at the end cannot be decoded, of 12 in the file"
    }


@pytest.mark.parametrize("damaged", [{60, 61, 95}, {0}, {0, 1, 20}])
def test_window_behind_damage_starts_at_requested_frame(damaged: set[int], tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    trees.write_video(path, 120)
    trees.corrupt_frames(path, damaged)
    (clip,) = open_dataset("videos", tmp_path).clips
    for start in (18, 59, 62, 64, 76, 96, 100, 119):
        index, image = next(clip.images(start, 120))
        assert index == start
        assert abs(int(image.mean()) - (10 * start + 5) % 256) <= 2


def test_empty_clip_is_recorded(tmp_path: Path) -> None:
    trees.write_boxes(tmp_path, ["car1"])
    for path in (tmp_path / "car1" / "frames").iterdir():
        path.unlink()
    dataset = open_dataset("boxes", tmp_path)
    assert _indices(dataset.clips[0]) == []
    assert dataset.faults[tmp_path / "car1" / "frames"] == "no image in it"


def test_readers_do_not_import_torch() -> None:
    code = "import sys, trainer.datasets; print({'torch', 'lightning', 'onnxruntime'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_every_kind_has_a_reader() -> None:
    assert set(READERS) == {"avs1k", "dhf1k", "ucf-sports", "hollywood2", "videos", "bags", "boxes"}


def test_real_ucf_sports_sample(real: Path) -> None:
    dataset = open_dataset("ucf-sports", real / "ucf-sports", "test")
    (clip,) = dataset.clips
    frames = list(clip.frames())
    assert (clip.name, len(clip), [f.index for f in frames]) == ("Diving-Side-001", 10, list(range(10)))
    for frame in frames:
        assert frame.density is not None
        assert frame.fixations is not None
        assert frame.density.shape == frame.image.shape[:2] == (404, 720)
        assert 5 <= len(frame.fixations) <= 40
        at = frame.density[frame.fixations[:, 0], frame.fixations[:, 1]]
        assert at.mean() > 5 * frame.density.mean()
    assert (dataset.missing_labels(), dataset.faults) == ({}, {})


def test_real_dhf1k_sample(real: Path) -> None:
    dataset = open_dataset("dhf1k", real / "dhf1k")
    (clip,) = dataset.clips
    assert (clip.name, clip.split, len(clip)) == ("068", "train", 540)
    sequential = list(clip.frames(0, 134))
    random_access = next(clip.frames(133, 134))
    assert (random_access.index, random_access.image.shape) == (133, (360, 640, 3))
    assert np.array_equal(random_access.image, sequential[133].image)
    assert dataset.missing_labels() == {"density": {"068": 540}, "fixations": {"068": 540}}


def test_real_boxes_sample(real: Path) -> None:
    dataset = open_dataset("boxes", real / "uav")
    assert [len(clip) for clip in dataset.clips] == [40] * 8
    for clip in dataset.clips:
        frame = next(clip.frames(39))
        assert frame.image.shape == (720, 1280, 3)
        assert frame.box is not None
        assert all(math.isfinite(value) for value in frame.box)
    assert (dataset.missing_labels(), dataset.faults) == ({}, {})


def test_real_videos_sample(real: Path) -> None:
    dataset = open_dataset("videos", real)
    assert [clip.name for clip in dataset.clips] == ["dhf1k/video/068.AVI", "video/car-detection.mp4"]
    assert next(dataset.clips[1].frames(100)).image.shape == (432, 768, 3)


def test_topics_of_bags_are_clips(tmp_path: Path) -> None:
    images = flight(6)
    two = {"/day": [raw(image) for image in images], "/night/compressed": [compressed(images[0])] * 2}
    write_bag(tmp_path / "one.bag", "ros1", two)
    write_bag(tmp_path / "flights" / "two", "sqlite3", {"/day": [raw(image) for image in images]})
    (tmp_path / "broken.mcap").write_bytes(b"hello")
    dataset = open_dataset("bags", tmp_path)
    assert [clip.name for clip in dataset.clips] == [
        "flights/two#/day",
        "one.bag#/day",
        "one.bag#/night/compressed",
    ]
    assert [len(clip) for clip in dataset.clips] == [6, 6, 2]
    for clip in dataset.clips[:2]:
        frames = list(clip.frames(2, 5))
        assert [frame.index for frame in frames] == [2, 3, 4]
        np.testing.assert_array_equal([frame.image for frame in frames], images[2:5])
        assert frames[0].density is None
    assert "broken.mcap" in dataset.describe_faults()[0]


def test_faults_of_two_topics_of_a_bag_are_both_kept(tmp_path: Path) -> None:
    pictures = [raw(image) for image in flight(3)]
    pictures[1] = replace(pictures[1], height=4800)
    write_bag(tmp_path / "b.bag", "ros1", {"/day": pictures, "/night": pictures})
    dataset = open_dataset("bags", tmp_path)
    for clip in dataset.clips:
        assert [frame.index for frame in clip.frames()] == [0, 2]
    assert [line.partition(":")[0] for line in dataset.describe_faults()] == ["b.bag#/day", "b.bag#/night"]


def test_folder_of_one_ros2_bag_is_a_data_set(tmp_path: Path) -> None:
    write_bag(tmp_path / "b", "mcap", {"/day": [raw(image) for image in flight(3)]})
    (clip,) = open_dataset("bags", tmp_path / "b").clips
    assert (clip.name, len(clip)) == ("b#/day", 3)
