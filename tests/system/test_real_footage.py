"""Shipped students on real drone footage that they were not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edge.release.manifest import SHIPPED_RELEASES
from edge.sources.factory import open_source
from tests.conftest import Outcome

Command = Callable[..., Outcome]


TINYHD_M = {"box_auc": 0.975, "box_zblur": 4.18, "box_hit": 0.34}
"""Scores of the authors' weights on the same frames (docs/explanation/results.md)."""


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED_RELEASES.iterdir()))
def test_shipped_student_scores_better_than_tinyhd(
    command: Command, real: Path, tmp_path: Path, name: str
) -> None:
    arguments = ["--dataset", "boxes", "--root", real / "uav", "--fps", "10", "--json", tmp_path / "e.json"]
    outcome = command("evaluate", name, *arguments)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    scores = {key: metrics[key]["mean"] for key in TINYHD_M}
    assert all(scores[key] > bound for key, bound in TINYHD_M.items()), scores


@pytest.mark.parametrize("name", ["video/car-detection.mp4", "dhf1k/video/068.AVI"])
def test_run_writes_all_outputs_of_a_real_video(
    command: Command, real: Path, tmp_path: Path, name: str
) -> None:
    outputs = ["--overlay", tmp_path / "o.mp4", "--jsonl", tmp_path / "o.jsonl", "--maps", tmp_path / "m"]
    outcome = command("run", real / name, "--max-frames", "60", *outputs, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["frames"] == 60
    source = open_source(str(real / name))
    image = cv2.imread(str(tmp_path / "m" / "000059.png"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape[1] / image.shape[0] == pytest.approx(source.width / source.height, rel=0.01)


def test_calibration_on_real_footage_preserves_the_maps(command: Command, real: Path, tmp_path: Path) -> None:
    frames = [word for name in ("car10", "person12") for word in ("--frames", real / "uav" / name / "frames")]
    arguments = ["--out", tmp_path / "r", "--form", "stream", *frames]
    outcome = command("export", "skd-64", *arguments)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "r" / "release.json").read_text())
    similarity = {(g["precision"], g["engine"]): g["verified"]["mean_cc"] for g in manifest["graphs"]}
    assert similarity[("fp16", "any")] > 0.9999
    assert similarity[("int8", "onnxruntime")] > 0.995
    assert similarity[("int8", "tensorrt")] > 0.995
