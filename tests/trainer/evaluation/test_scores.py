"""Tests of the scores: averages, interval, skipped metrics, and the command on small and real data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from edge.core.errors import InputError
from tests.conftest import Outcome
from tests.support import dataset_trees
from trainer.datasets.clips import LabelledFrame
from trainer.datasets.factory import open_dataset
from trainer.evaluation.contact_sheet import CELL_WIDTH, contact_sheet
from trainer.evaluation.scores import METRICS, Metric, _baseline, _ig, confidence_interval, evaluate_predictor
from trainer.inference.predictor import Map
from trainer.inference.predictors import ReleasePredictor, open_predictor
from trainer.inference.torch_predictors import StudentPredictor
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student, TinyHDSettings, load_student
from trainer.models.tinyhd import Variant

Command = Callable[..., Outcome]


class TruthPredictor:
    """Predictor whose maps are the truth, and its inverse on the (clip, frame) pairs in `wrong`."""

    description = "truth"

    def __init__(self, wrong: set[tuple[str, int]] | None = None) -> None:
        self._wrong = wrong or set()

    def predict(
        self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
    ) -> Iterator[tuple[LabelledFrame, Map]]:
        for frame in frames:
            truth = np.zeros(frame.image.shape[:2], np.float32) if frame.density is None else frame.density
            yield frame, 1 - truth if (clip, frame.index) in self._wrong else truth


def test_frames_are_averaged_to_videos_and_videos_to_the_mean(tmp_path: Path) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1, 2])
    (tmp_path / "annotation" / "0002" / "maps" / "0001.png").unlink()
    evaluation = evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor({("001", 0), ("002", 3)}))
    first, second = (video.scores["cc"] for video in evaluation.videos)
    assert first == pytest.approx((3 - 1) / 4)
    assert second == pytest.approx((2 - 1) / 3)
    score = evaluation.scores["cc"]
    assert score.mean == pytest.approx((first + second) / 2)
    assert (score.videos, score.frames) == (2, 7)
    assert score.low is not None
    assert score.high is not None
    assert score.low <= score.mean <= score.high
    assert evaluation.skipped == {m.name: "no box" for m in METRICS if m.needs == "box"}


def test_best_and_worst_frames_are_the_extremes(tmp_path: Path) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1, 2])
    evaluation = evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor({("001", 1)}))
    assert evaluation.ranked_by == "cc"
    assert [(s.clip, s.frame.index) for s in evaluation.worst[:1]] == [("001", 1)]
    assert evaluation.worst[0].score == pytest.approx(-1)
    assert {s.clip for s in evaluation.best} == {"001", "002"}
    sheet = contact_sheet(evaluation)
    assert sheet.shape[1] > 3 * CELL_WIDTH
    assert sheet.shape[0] > 4 * CELL_WIDTH * dataset_trees.HEIGHT / dataset_trees.WIDTH
    truth, prediction = sheet[:, -2 * CELL_WIDTH : -CELL_WIDTH], sheet[:, -CELL_WIDTH:]
    assert truth.min(axis=2).max() == 255, "fixations are white rings"
    assert prediction.min(axis=2).max() < 160, "nothing is drawn over the heat, whose blue is weak"


def test_metric_without_truth_is_skipped_with_a_reason(tmp_path: Path) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1])
    evaluation = evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor())
    assert evaluation.skipped["sauc"] == evaluation.skipped["ig"] == "no fixations of other videos"
    assert evaluation.scores["cc"].low is None
    for path in (tmp_path / "annotation" / "0001" / "fixation").iterdir():
        dataset_trees.write_fixations(path, [])
    evaluation = evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor())
    assert evaluation.skipped["nss"] == "not defined on any frame"
    assert "nss" not in evaluation.videos[0].scores


def test_frame_with_empty_density_does_not_count(tmp_path: Path) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1])
    blank = np.zeros((dataset_trees.HEIGHT, dataset_trees.WIDTH), np.uint8)
    cv2.imwrite(str(tmp_path / "annotation" / "0001" / "maps" / "0002.png"), blank)
    assert evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor()).scores["kld"].frames == 3


def test_negatives_of_sauc_are_fixations_of_other_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1, 2, 3])
    rows: list[set[int]] = []

    def spy(saliency: Map, fixations: np.ndarray, others: np.ndarray, convention: str) -> float:
        rows.append(set(others[:, 0].tolist()))
        return 0.5

    spied = Metric("sauc", "sAUC", "fixations", spy, others="fixations")
    monkeypatch.setattr("trainer.evaluation.scores.METRICS", (spied,))
    evaluate_predictor(open_dataset("dhf1k", tmp_path), TruthPredictor(), max_frames=1)
    assert rows == [{17, 18, 26, 27}, {8, 9, 26, 27}, {8, 9, 17, 18}]


@pytest.mark.parametrize("convention", ["pysaliency", "matlab"])
def test_baseline_of_information_gain_is_fixations_of_other_videos(
    tmp_path: Path, convention: Literal["pysaliency", "matlab"]
) -> None:
    """A map equal to the baseline gains nothing; the truth gains a lot, its inverse little."""
    dataset = open_dataset("dhf1k", dataset_trees.write_dhf1k(tmp_path, [1, 2, 3]))
    size = (dataset_trees.WIDTH, dataset_trees.HEIGHT)

    class BaselinePredictor(TruthPredictor):
        def predict(
            self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
        ) -> Iterator[tuple[LabelledFrame, Map]]:
            shares = [c.relative_fixations(i) for c in dataset.clips if c.name != clip for i in range(len(c))]
            baseline = cv2.resize(_baseline(np.concatenate(shares)), size, interpolation=cv2.INTER_LINEAR)
            for frame in frames:
                yield frame, np.asarray(5 * baseline, np.float32)

    same = evaluate_predictor(dataset, BaselinePredictor(), convention=convention).scores["ig"]
    assert same.mean == pytest.approx(0, abs=1e-4)
    assert same.frames == 12
    if convention == "pysaliency":
        truth = evaluate_predictor(dataset, TruthPredictor())
        assert truth.scores["ig"].mean > 3  # the truth itself, in bits
        wrong = evaluate_predictor(
            dataset, TruthPredictor({(c.name, i) for c in dataset.clips for i in range(4)})
        )
        assert wrong.scores["ig"].mean < 1


def test_information_gain_equals_the_value_computed_by_hand() -> None:
    saliency, baseline = np.array([[3.0, 1.0]]), np.array([[0.0, 2.0]])
    fixations = np.array([[0, 0], [0, 1]])
    s, b = np.array([0.7475, 0.2525]) - [0, 0], np.array([0.005, 0.995])
    expected = float(np.mean(np.log2(s / b)))
    assert _ig(saliency, fixations, baseline, "pysaliency") == pytest.approx(expected)
    gain = _ig(saliency, fixations[:1], baseline, "matlab")
    assert gain == pytest.approx(np.log2(1 / 2.2204e-16), abs=1e-6)


def test_convention_is_passed_to_the_metrics(tmp_path: Path) -> None:
    """Two fixations on a map of two levels; expected values computed by hand in each convention."""
    dataset_trees.write_dhf1k(tmp_path, [1], frames=1)
    dataset = open_dataset("dhf1k", tmp_path)

    class HalfPredictor(TruthPredictor):
        def predict(
            self, clip: str, frames: Iterable[LabelledFrame], every: int = 1
        ) -> Iterator[tuple[LabelledFrame, Map]]:
            for frame in frames:
                saliency = np.ones((dataset_trees.HEIGHT, dataset_trees.WIDTH), np.float32)
                saliency[: dataset_trees.HEIGHT // 2] = 3  # both fixations are in this half
                yield frame, saliency

    pixels = dataset_trees.HEIGHT * dataset_trees.WIDTH
    exact = evaluate_predictor(dataset, HalfPredictor()).scores
    matlab = evaluate_predictor(dataset, HalfPredictor(), convention="matlab").scores
    assert exact["nss"].mean == pytest.approx(1)
    assert matlab["nss"].mean == pytest.approx(np.sqrt((pixels - 1) / pixels))
    assert exact["auc_judd"].mean == pytest.approx(0.75)
    assert matlab["auc_judd"].mean != exact["auc_judd"].mean  # Matlab breaks ties by jitter
    density = next(dataset.clips[0].frames()).density
    assert density is not None
    for scores, low in ((exact, 1.0), (matlab, 0.0)):
        halves = np.full((dataset_trees.HEIGHT, dataset_trees.WIDTH), low)
        halves[: dataset_trees.HEIGHT // 2] = low + 2
        both = np.minimum(halves / halves.sum(), density / density.sum())
        assert scores["sim"].mean == pytest.approx(both.sum(), abs=1e-5)
    assert evaluate_predictor(dataset, HalfPredictor(), convention="matlab").to_dict(dataset, None)[
        "protocol"
    ]["convention"] == ("matlab")


def test_negatives_in_matlab_convention_are_from_ten_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_trees.write_dhf1k(tmp_path, [1, 2, 3], frames=8)
    counts: dict[str, set[int]] = {"matlab": set(), "pysaliency": set()}

    def spy(saliency: Map, fixations: np.ndarray, others: np.ndarray, convention: str) -> float:
        counts[convention].add(len(others))
        return 0.5

    spied = Metric("sauc", "sAUC", "fixations", spy, others="fixations")
    monkeypatch.setattr("trainer.evaluation.scores.METRICS", (spied,))
    for convention in ("matlab", "pysaliency"):
        evaluate_predictor(
            open_dataset("dhf1k", tmp_path), TruthPredictor(), max_frames=1, convention=convention
        )
    assert counts == {"matlab": {2 * 10}, "pysaliency": {2 * 16}}


def test_confidence_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400).tolist()
    interval = confidence_interval(values)
    assert interval is not None
    low, high = interval
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert confidence_interval(values) == (low, high)
    assert confidence_interval([1.0]) is None


def test_data_set_without_labels_is_rejected(tmp_path: Path) -> None:
    dataset_trees.write_video(tmp_path / "a.avi", 2)
    with pytest.raises(InputError, match=r"no frame of videos at .* has a density, a fixation or a box"):
        evaluate_predictor(open_dataset("videos", tmp_path), TruthPredictor())


@pytest.mark.parametrize("pair", ["previous", "next"])
def test_student_predictor_yields_one_map_per_frame(pair: Pair, tmp_path: Path) -> None:
    torch.manual_seed(0)  # fixed, because maps of untrained networks are nearly flat
    settings = SkdSettings(32, pair, "log_density")
    student = Student("small", settings, SpatiotemporalNetwork().eval(), {})
    student.save(tmp_path / "small.safetensors")
    dataset_trees.write_dhf1k(tmp_path, [1], frames=3)
    (clip,) = open_dataset("dhf1k", tmp_path).clips
    predictor = StudentPredictor(str(tmp_path / "small.safetensors"))
    labelled_maps = list(predictor.predict(clip.name, clip.frames()))
    assert [frame.index for frame, _ in labelled_maps] == [0, 1, 2]
    assert all(saliency.shape == (32, 32) for _, saliency in labelled_maps)
    alone = list(predictor.predict(clip.name, clip.frames(0, 1)))
    same = np.allclose(
        alone[0][1], labelled_maps[0][1], rtol=0, atol=5e-7
    )  # batches of 1 and 3 round differently
    assert same == (pair == "previous")
    assert list(predictor.predict(clip.name, iter(()))) == []


def test_student_with_lag_in_seconds_gets_the_frame_of_that_age(tmp_path: Path) -> None:
    network = load_student("skd-64").network
    Student("near", SkdSettings(64, "previous", "log_density"), network, {}).save(
        tmp_path / "near.safetensors"
    )
    Student("far", SkdSettings(64, "previous", "log_density", 0.2), network, {}).save(
        tmp_path / "far.safetensors"
    )
    dataset_trees.write_dhf1k(tmp_path, [1], frames=8)
    (clip,) = open_dataset("dhf1k", tmp_path).clips
    frames = list(clip.frames())
    far = [m for _, m in StudentPredictor(str(tmp_path / "far.safetensors"), fps=10).predict("a", frames)]
    near = StudentPredictor(str(tmp_path / "near.safetensors"), fps=10)
    for index, saliency in enumerate(far):
        pair = frames[max(0, index - 2)], frames[index]
        np.testing.assert_array_equal(list(near.predict("a", pair))[1][1], saliency)


@pytest.mark.parametrize(("variant", "length"), [("S", 18), ("M", 20), ("M", 5)])
def test_tinyhd_student_predictor_yields_one_map_per_frame(
    variant: Variant, length: int, tmp_path: Path, one_thread: None
) -> None:
    settings = TinyHDSettings(variant, 8, height=32, width=32)
    torch.manual_seed(0)
    network = settings.build().eval()
    Student("clips", settings, network, {}).save(tmp_path / "clips.safetensors")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (length, 32, 32, 3), np.uint8)
    frames = [LabelledFrame(index, image, None, None, None) for index, image in enumerate(images)]
    predictor = StudentPredictor(str(tmp_path / "clips.safetensors"))
    labelled_maps = list(predictor.predict("a", iter(frames)))
    assert [frame.index for frame, _ in labelled_maps] == list(range(length))
    prepare = settings.preprocessing()
    # S: a clip ends at each frame. M: blocks 0 to 15, ..., and the last one ends at the last frame.
    lasts = [i if variant == "S" else min(i // 16 * 16 + 15, length - 1) for i in range(length)]
    clips = {
        last: np.stack([prepare(images[max(0, i)])[0] for i in range(last - 15, last + 1)], axis=1)
        for last in lasts
    }
    with torch.inference_mode():
        fused = network(torch.from_numpy(np.stack(list(clips.values())))).fused
    expected = dict(zip(clips, fused.numpy(), strict=True))
    for index, (last, (_, saliency)) in enumerate(zip(lasts, labelled_maps, strict=True)):
        np.testing.assert_allclose(saliency, expected[last][index - last - 1], atol=1e-5)
    assert list(predictor.predict("a", iter(()))) == []


def test_release_and_student_of_the_same_name_agree(real: Path) -> None:
    (clip,) = open_dataset("ucf-sports", real / "ucf-sports").clips
    release = open_predictor("skd-64", "fp32")
    assert isinstance(release, ReleasePredictor)
    assert release.description.startswith("release skd-64 fp32, onnxruntime")
    release._model.blur = 0.0  # the student does not blur
    student = StudentPredictor("skd-64")
    pairs = zip(release.predict("a", clip.frames(0, 4)), student.predict("a", clip.frames(0, 4)), strict=True)
    for (_, a), (_, b) in pairs:
        assert np.abs(a - b).max() < 1e-4


def test_maps_written_by_run_score_as_the_release(command: Command, tmp_path: Path) -> None:
    root = dataset_trees.write_boxes(tmp_path / "data", ["car1", "car2"])
    for name in ("car1", "car2"):
        words = ("run", root / name / "frames", "--release", "skd-64", "--maps", tmp_path / "maps" / name)
        assert command(*words).code == 0
    documents = {}
    for maps in (tmp_path / "maps", "skd-64"):
        path = tmp_path / "scores.json"
        outcome = command("evaluate", maps, "--dataset", "boxes", "--root", root, "--json", path)
        assert outcome.code == 0, outcome.err
        documents[maps] = json.loads(path.read_text())
    assert documents["skd-64"]["maps"].startswith("release skd-64 ")
    ours, theirs = (document["metrics"]["box_auc"]["mean"] for document in documents.values())
    assert ours == pytest.approx(theirs, abs=0.02)


def test_command_prints_and_writes_scores(command: Command, tmp_path: Path) -> None:
    root = dataset_trees.write_dhf1k(tmp_path / "data", [1, 601, 602])
    (root / "annotation" / "0602" / "maps" / "0001.png").write_bytes(b"no map")
    outputs = ["--json", tmp_path / "o" / "s.json", "--picture", tmp_path / "o" / "p.png"]
    outcome = command("evaluate", "skd-64", "--dataset", "dhf1k", "--root", root, "--split", "val", *outputs)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines()[:12])) <= 80
    assert "release skd-64" in outcome.out
    assert "skipped box AUC, box z, box zblur, box hit: no box" in outcome.out
    assert "1 file at fault: annotation/0602/maps/0001.png: not readable as an image" in outcome.out
    document = json.loads((tmp_path / "o" / "s.json").read_text())
    assert document["dataset"]["split"] == "val"
    assert [video["name"] for video in document["videos"]] == ["601", "602"]
    assert document["metrics"]["cc"]["frames"] == 7
    assert document["metrics"]["kld"]["better"] == "lower"
    assert document["skipped"]["box_hit"] == "no box"
    assert document["protocol"]["resamples"] == 2000
    assert document["protocol"]["convention"] == "pysaliency"
    assert cv2.imread(str(tmp_path / "o" / "p.png")) is not None
    assert len(list((tmp_path / "o").iterdir())) == 2


BAD = [
    (["nobody", "--dataset", "boxes", "--root", "{data}"], "no model and no maps at 'nobody'; expected"),
    (["skd-64", "--dataset", "kitti", "--root", "{data}"], "'kitti' is not one of"),
    (["skd-64", "--dataset", "boxes", "--root", "nowhere"], "no folder nowhere; expected the root"),
    (["skd-64", "--dataset", "avs1k", "--root", "{data}"], "is not laid out as AVS1K: expected"),
    (["skd-64", "--dataset", "boxes", "--root", "{data}", "--split", "val"], "has no split 'val'"),
    (["skd-64", "--dataset", "boxes", "--root", "{data}", "--picture", "{out}/p.txt"], "ending in .png"),
    (["skd-64", "--dataset", "boxes", "--root", "{data}", "--precision", "int4"], "unknown precision"),
    (["{data}", "--dataset", "boxes", "--root", "{data}", "--precision", "fp32"], "is not a release; only a"),
    (
        ["{data}", "--dataset", "boxes", "--root", "{data}", "--json", "{out}/s.json"],
        "car1/000000.png is missing; expected a map for each frame of car1",
    ),
    (["skd-64", "--root", "{data}"], "Missing option '--dataset'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_exits_with_2_and_one_line(
    command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    dataset_trees.write_boxes(tmp_path / "data", ["car1"], frames=1)
    names = {"data": tmp_path / "data", "out": tmp_path}
    outcome = command("evaluate", *(word.format(**names) for word in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_command_scores_real_samples(command: Command, real: Path, tmp_path: Path) -> None:
    for kind, root, truths in (
        ("ucf-sports", "ucf-sports", {"fixations", "density"}),
        ("boxes", "uav", {"box"}),
    ):
        path = tmp_path / f"{kind}.json"
        outcome = command(
            "evaluate", "skd-64", "--dataset", kind, "--root", real / root, "--max-frames", "5",
            "--json", path, "--picture", tmp_path / f"{kind}.png",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        document = json.loads(path.read_text())
        expected = {m.name for m in METRICS if m.needs in truths}
        assert set(document["metrics"]) == expected - ({"sauc", "ig"} if kind == "ucf-sports" else set())
    assert document["metrics"]["box_auc"]["mean"] > 0.9
    assert "not eye data" in outcome.out
