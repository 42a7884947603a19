"""The shipped student on real drone footage that it never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edge.release.manifest import DEFAULT_RELEASE, SHIPPED_RELEASES
from edge.sources.factory import open_source
from tests.conftest import Outcome

Command = Callable[..., Outcome]


TINYHD_M = {"box_auc": 0.975, "box_zblur": 4.18, "box_hit": 0.34}
"""Its authors' weights on the same frames: docs/explanation/results.md."""


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED_RELEASES.iterdir()))
def test_each_shipped_student_finds_more_than_tinyhd(
    command: Command, real: Path, tmp_path: Path, name: str
) -> None:
    words = ["--dataset", "boxes", "--root", real / "uav", "--fps", "10", "--json", tmp_path / "e.json"]
    outcome = command("evaluate", name, *words)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    found = {key: metrics[key]["mean"] for key in TINYHD_M}
    assert all(found[key] > bound for key, bound in TINYHD_M.items()), found


@pytest.mark.parametrize("name", ["video/car-detection.mp4", "dhf1k/video/068.AVI"])
def test_it_runs_over_real_videos(command: Command, real: Path, tmp_path: Path, name: str) -> None:
    places = ["--overlay", tmp_path / "o.mp4", "--jsonl", tmp_path / "o.jsonl", "--maps", tmp_path / "m"]
    outcome = command("run", real / name, "--max-frames", "60", *places, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["frames"] == 60
    source = open_source(str(real / name))
    image = cv2.imread(str(tmp_path / "m" / "000059.png"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape[1] / image.shape[0] == pytest.approx(source.width / source.height, rel=0.01)


def test_calibration_on_real_footage_keeps_the_maps(command: Command, real: Path, tmp_path: Path) -> None:
    frames = [word for name in ("car10", "person12") for word in ("--frames", real / "uav" / name / "frames")]
    words = ["--out", tmp_path / "r", "--form", "stream", "--offer-int8", *frames]
    outcome = command("export", DEFAULT_RELEASE, *words)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "r" / "release.json").read_text())
    likeness = {(g["precision"], g["engine"]): g["verified"]["mean_cc"] for g in manifest["graphs"]}
    assert likeness[("fp16", "any")] > 0.9999
    assert likeness[("int8", "onnxruntime")] > 0.995
    assert likeness[("int8", "tensorrt")] > 0.995
