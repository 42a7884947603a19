"""The shipped student on real drone footage that it never saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.proxy import box_scores
from edge.release import DEFAULT
from edge.sources import open_source
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_it_finds_what_a_drone_tracks(command: Command, real: Path, tmp_path: Path) -> None:
    areas = []
    for folder in sorted((real / "uav").iterdir()):
        maps = tmp_path / folder.name
        outcome = command("run", folder / "frames", "--maps", maps)
        assert outcome.code == 0, outcome.err
        boxes = np.loadtxt(folder / "boxes.txt", delimiter=",")
        height, width = next(iter(open_source(str(folder / "frames")))).image.shape[:2]
        loaded = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(maps.iterdir())]
        found = [
            box_scores(saliency, box, width, height).auc
            for saliency, box in zip(loaded, boxes, strict=True)
            if saliency is not None and not np.isnan(box).any()
        ]
        areas.append(float(np.mean(found)))
    assert len(areas) == 8
    assert np.mean(areas) > 0.95, areas


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
    outcome = command("export", DEFAULT, "--out", tmp_path / "r", "--form", "stream", *frames)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((tmp_path / "r" / "release.json").read_text())
    likeness = {(g["precision"], g["engine"]): g["verified"]["mean_cc"] for g in manifest["graphs"]}
    assert likeness[("fp16", "any")] > 0.9999
    assert likeness[("int8", "onnxruntime")] > 0.995
    assert likeness[("int8", "tensorrt")] > 0.995
