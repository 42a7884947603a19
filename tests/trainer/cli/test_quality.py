"""`aerogaze quality`: all measures in one run, and what is skipped without the real sequences."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge.core.errors import InputError
from edge.simulation.world import World
from trainer.cli.quality import quality
from trainer.evaluation import quality as measures
from trainer.evaluation.quality import Effort

SEQUENCES = ("uav/bike1", "uav2/boat1", "uav/person11")


@pytest.fixture(autouse=True)
def _little_effort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEROGAZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AEROGAZE_DATA", raising=False)
    monkeypatch.setattr(measures, "QUICK", Effort(every=2, twins=1, made_empty=1, featureless=1))
    monkeypatch.setattr(measures, "TIMED_SIZE", (128, 72))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sequences of the protocol, of six small frames each."""
    for seed, sequence in enumerate(SEQUENCES):
        world, folder = World(seed, 96, 54), tmp_path / "data" / sequence
        (folder / "frames").mkdir(parents=True)
        for index in range(6):
            cv2.imwrite(str(folder / "frames" / f"{index:03d}.jpg"), world.frame(index).image)
        (folder / "boxes.txt").write_text("40,20,10,10\n" * 5 + "nan,nan,nan,nan\n")
    return tmp_path / "data"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(quality, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_candidates_are_judged_side_by_side(data: Path, tmp_path: Path) -> None:
    path, sheets = tmp_path / "quality.json", tmp_path / "sheets"
    arguments = ("skd-32", "skd-64", "--quick", "--data", str(data), "--json", str(path))
    output = run(*arguments, "--sheets", str(sheets))
    assert max(map(len, output.splitlines()[:-3])) <= 100
    assert "skipped uav/surfing06, " in output
    document = json.loads(path.read_text())
    assert [candidate["name"] for candidate in document["candidates"]] == ["skd-32", "skd-64"]
    for candidate in document["candidates"]:
        assert {row["name"]: row["frames"] for row in candidate["sequences"]} == dict.fromkeys(SEQUENCES, 3)
        assert set(candidate["alarms_by_place"]) == {"sea", "roads", "people"}
        assert set(candidate["alarms"]["by_kind"]) == {"made empty", "featureless", "view"}
        assert candidate["cost_ms"] > 0
        assert candidate["gaze"] is None
    for name in ("skd-32", "skd-64"):
        sheet = cv2.imread(str(sheets / f"{name}.png"))
        assert sheet is not None
        assert np.ptp(sheet) > 100


def test_second_run_reads_the_maps_from_the_cache(data: Path, tmp_path: Path) -> None:
    documents = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        run("skd-32", "--quick", "--data", str(data), "--json", str(path))
        (candidate,) = json.loads(path.read_text())["candidates"]
        documents.append({key: value for key, value in candidate.items() if key != "cost_ms"})
        for frame in data.rglob("*.jpg"):
            frame.write_bytes(b"no image any more")
    assert documents[0] == documents[1]


def test_sequence_with_an_unreadable_frame_is_refused(data: Path) -> None:
    (data / "uav" / "bike1" / "frames" / "002.jpg").write_bytes(b"no image")
    with pytest.raises(
        InputError, match=r"uav/bike1: 1 of its frames cannot be read as an image; expected all"
    ):
        run("skd-32", "--quick", "--data", str(data))


def test_without_data_the_simulated_measures_remain(tmp_path: Path) -> None:
    output = run("skd-32", "--quick")
    assert "skipped box proxy, gaze and views: no real sequences" in output
    assert "featureless" in output


def test_missing_folder_of_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder .*absent; expected the real sequences"):
        run("skd-32", "--data", str(tmp_path / "absent"))
