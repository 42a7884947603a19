from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.frames import CalibrationFrames
from edge import release as releases
from edge.errors import CheckError, InputError
from edge.files import sha256
from edge.model import SaliencyModel, clip_maps
from edge.release import PRECISIONS
from export import make
from export.fp16 import to_fp16
from export.make import make_release
from tests.conftest import Outcome
from trainer.models.student import Student, load_student


def test_a_release_is_whole_and_its_graphs_are_the_student(
    student: Student, footage: CalibrationFrames, tmp_path: Path
) -> None:
    make_release(student, footage, tmp_path / "r")
    release = releases.load(tmp_path / "r")
    for form in ("stream", "pair"):
        for engine in ("onnxruntime", "tensorrt"):
            assert release.precisions(form, engine) == PRECISIONS
    verified = {(g.form, g.precision, g.engine): v for g, v in release.verified()}
    assert len(verified) == 8
    for (_, precision, _), found in verified.items():
        assert found.frames == 3  # a quarter of eleven pairs
        if precision == "fp32":
            assert found.max_error <= 1e-5
        assert found.mean_cc > {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}[precision]
    assert release.calibrated is not None
    assert release.calibrated["windows"] == 8
    assert release.calibrated["frames_sha256"] == footage.sha256
    assert release.delay_frames == (student.settings.pair == "next")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_flies_gives_the_golden_maps(
    student: Student, footage: CalibrationFrames, tmp_path: Path, precision: str
) -> None:
    make_release(student, footage, tmp_path / "r", forms=["stream"])
    model = SaliencyModel(tmp_path / "r", precision)
    frames, maps = model.release.golden()
    np.testing.assert_allclose(clip_maps(model, frames), maps, atol=1e-5 if precision == "fp32" else 0.05)


def test_a_student_with_look_ahead_gives_each_frame_its_own_map(
    footage: CalibrationFrames, tmp_path: Path, folder: Path, command: Callable[..., Outcome]
) -> None:
    from tests.export.conftest import random_student

    make_release(random_student(32, "next"), footage, tmp_path / "r", forms=["stream"])
    outcome = command("run", folder, "--release", tmp_path / "r", "--precision", "fp32",
                      "--jsonl", tmp_path / "o.jsonl")  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(12))


def test_nan_in_a_released_graph_is_refused_before_it_flies(
    release: Path, folder: Path, command: Callable[..., Outcome]
) -> None:
    for name in ("stream.fp32.onnx",):
        model = onnx.load(release / name)
        weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
        values = numpy_helper.to_array(weight).copy()
        values[0, 0, 0, 0] = np.nan
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, release / name)
    document = json.loads((release / releases.MANIFEST).read_text())
    document["files"][name] = {
        "sha256": sha256(release / name),
        "size_bytes": (release / name).stat().st_size,
    }
    (release / releases.MANIFEST).write_text(json.dumps(document))
    outcome = command("run", folder, "--release", release, "--precision", "fp32")
    assert outcome.code == 2
    assert "do not fly it" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_graph_that_is_not_the_student_is_never_released(
    footage: CalibrationFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_student("skd-64")
    windows = footage.windows.repeat(2, axis=2).repeat(2, axis=3)
    footage = CalibrationFrames(windows, windows[:, 0], "flight")
    whole = to_fp16

    def shifted(model: onnx.ModelProto, kept: list[str]) -> onnx.ModelProto:
        weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1], weight.name))
        return whole(model, kept)

    monkeypatch.setattr(make, "to_fp16", shifted)
    with pytest.raises(CheckError, match=r"the fp16 graph .* is not the student"):
        make_release(student, footage, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_release_replaces_an_older_one_and_nothing_else(
    student: Student, footage: CalibrationFrames, tmp_path: Path
) -> None:
    for _ in range(2):
        make_release(student, footage, tmp_path / "r", forms=["stream"])
    (tmp_path / "r" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        make_release(student, footage, tmp_path / "r", forms=["stream"])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no calibration frames; expected real footage: give --frames SOURCE"),
        (["missing.mp4"], "no source 'missing.mp4'"),
        (["{black}"], "shows nothing"),
        (["synthetic:1:64x64:1"], "has fewer than 2 frames"),
    ],
)
def test_bad_frames_are_one_clear_line(
    command: Callable[..., Outcome], folder: Path, tmp_path: Path, frames: list[str], message: str
) -> None:
    import cv2

    for path in folder.iterdir():
        cv2.imwrite(str(path), np.zeros((180, 320, 3), np.uint8))
    words = [w for name in frames for w in ("--frames", name.replace("{black}", str(folder)))]
    outcome = command("export", "skd-64", "--out", tmp_path / "r", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_the_command_exports_a_student(command: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    outcome = command("export", "skd-64", "--frames", folder, "--out", tmp_path / "r", "--form", "stream")
    assert outcome.code == 0, outcome.err
    assert "stream int8" in outcome.out
    assert releases.load(tmp_path / "r").name == "skd-64"
