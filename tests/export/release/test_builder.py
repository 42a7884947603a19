"""Tests of the release builder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.inputs.calibration_frames import CalibrationFrames
from edge.core.atomic_files import sha256
from edge.core.errors import CheckError, InputError
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.release.manifest import RELEASE_MANIFEST, load_release
from edge.release.release import PRECISIONS, Precision
from edge.sinks.files.map_images import fit_to_aspect, to_uint16
from edge.sources.factory import open_source
from export.graphs.fp16 import to_fp16
from export.release import builder
from export.release.builder import make_release
from export.release.parity import check_parity
from tests.conftest import Outcome
from tests.support.exporting import FAKE_TIMING
from trainer.models.student import SHIPPED_STUDENTS, Student, as_skd, load_student


def upscale(footage: CalibrationFrames) -> CalibrationFrames:
    """Return the footage at R = 64, twice its size."""
    windows, held_out = (
        np.stack(list(w)).repeat(2, axis=2).repeat(2, axis=3) for w in (footage.windows, footage.held_out)
    )
    return CalibrationFrames(windows, held_out, windows[:, 0], footage.source)


def test_release_has_all_graphs_and_they_reproduce_the_student(
    student: Student, footage: CalibrationFrames, released: Path
) -> None:
    release = load_release(released)
    for form in ("stream", "pair"):
        for engine in ("onnxruntime", "tensorrt"):
            assert release.precisions(form, engine) == PRECISIONS
    verified = {(g.form, g.precision, g.engine): v for g, v in release.verified_graphs()}
    assert len(verified) == 8
    for (_, precision, _), verification in verified.items():
        assert verification.frames == 2
        if precision == "fp32":
            assert verification.max_error <= 1e-5
        assert verification.mean_cc > {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.99}[precision]
    assert release.calibrated is not None
    assert release.calibrated["windows"] == 8
    assert release.calibrated["frames_sha256"] == footage.sha256
    assert release.delay_frames == student.settings.delay_frames


@pytest.mark.parametrize("precision", PRECISIONS)
def test_loaded_release_reproduces_the_golden_maps(released: Path, precision: str) -> None:
    model = SaliencyModel(released, precision)
    frames, maps = model.release.load_golden()
    np.testing.assert_allclose(
        compute_clip_maps(model, frames), maps, atol=1e-5 if precision == "fp32" else 0.05
    )


def test_student_that_looks_ahead_assigns_each_map_to_its_own_frame(
    footage: CalibrationFrames, tmp_path: Path, folder: Path, command: Callable[..., Outcome]
) -> None:
    shipped = load_student("skd-64")  # trained, so that its maps differ from frame to frame
    student = replace(shipped, settings=replace(as_skd(shipped)[0], pair="next"))
    make_release(student, upscale(footage), tmp_path / "r", forms=["stream"], options=FAKE_TIMING)
    outcome = command(
        "run", folder, "--release", tmp_path / "r", "--precision", "fp32", "--maps", tmp_path / "maps"
    )
    assert outcome.code == 0, outcome.err
    model = SaliencyModel(tmp_path / "r", "fp32")
    frames = [frame.image for frame in open_source(str(folder))]
    alone = [compute_clip_maps(model, np.stack(frames[index : index + 2]))[0] for index in range(len(frames))]
    written = sorted((tmp_path / "maps").iterdir())
    assert len(written) == len(frames)
    for path, saliency in zip(written, alone, strict=True):
        expected = to_uint16(fit_to_aspect(saliency, 320, 180)).astype(int)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert np.abs(image.astype(int) - expected).max() <= 70  # 0.1 %
    assert np.abs(alone[0] - alone[6]).max() > 0.01  # the maps differ, so a wrong order would be noticed


@pytest.mark.parametrize(
    ("graph", "precision"), [("stream.fp32.onnx", "fp32"), ("stream.int8.onnxruntime.onnx", "int8")]
)
def test_run_rejects_a_graph_with_nan_weights(
    release: Path, folder: Path, command: Callable[..., Outcome], graph: str, precision: str
) -> None:
    model = onnx.load(release / graph)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype == np.float32 and "spatial.1" in tensor.name and values.size > 1:
            values.flat[:4] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, release / graph)
    document = json.loads((release / RELEASE_MANIFEST).read_text())
    document["files"][graph] = {
        "sha256": sha256(release / graph),
        "size_bytes": (release / graph).stat().st_size,
    }
    (release / RELEASE_MANIFEST).write_text(json.dumps(document))
    outcome = command("run", folder, "--release", release, "--precision", precision)
    assert outcome.code == 2
    assert "do not fly it" in outcome.err
    assert outcome.err.count("\n") == 1


def test_graph_that_differs_from_the_student_is_not_released(
    footage: CalibrationFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_student("skd-64")

    def corrupt_and_convert(model: onnx.ModelProto, kept: list[str]) -> onnx.ModelProto:
        weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1], weight.name))
        return to_fp16(model, kept)

    monkeypatch.setattr(builder, "to_fp16", corrupt_and_convert)
    with pytest.raises(CheckError, match=r"the fp16 graph .* does not reproduce the network"):
        make_release(student, upscale(footage), tmp_path / "r", options=FAKE_TIMING)
    assert list(tmp_path.iterdir()) == []


def test_limit_of_fp32_is_absolute_unless_the_maps_have_another_range() -> None:
    expected = [np.linspace(0, 0.1, 64, dtype=np.float32).reshape(8, 8)]
    shifted = [expected[0] + np.float32(4e-5)]
    verification = check_parity("fp32 graph", "fp32", shifted, expected, str)
    assert verification.max_error <= verification.tolerance == 5e-5
    with pytest.raises(CheckError, match="expected at most 5e-06"):
        check_parity("fp32 graph", "fp32", shifted, expected, str, peak=0.1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_network_with_empty_maps_is_refused_in_one_line(precision: Precision) -> None:
    empty = [np.zeros((8, 8), np.float32)] * 2
    with pytest.raises(InputError, match="the network's map is empty on these frames") as error:
        check_parity(f"{precision} graph", precision, empty, empty, str)
    assert "\n" not in str(error.value)


def test_release_replaces_an_older_release_but_no_other_files(
    student: Student, footage: CalibrationFrames, released: Path, tmp_path: Path
) -> None:
    shutil.copytree(released, tmp_path / "r")
    make_release(student, footage, tmp_path / "r", forms=["stream"], options=FAKE_TIMING)
    assert load_release(tmp_path / "r").forms() == ("stream",)
    (tmp_path / "r" / "yolo.onnx").touch()
    with pytest.raises(InputError, match=r"holds yolo\.onnx"):
        make_release(student, footage, tmp_path / "r", forms=["stream"], options=FAKE_TIMING)
    (tmp_path / "zoo" / "engines").mkdir(parents=True)
    with pytest.raises(InputError, match="holds engines"):
        make_release(student, footage, tmp_path / "zoo", forms=["stream"], options=FAKE_TIMING)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no calibration frames; expected real footage: give --frames SOURCE"),
        (["missing.mp4"], "no source 'missing.mp4'"),
        (["{black}"], "shows nothing"),
        (["synthetic:1:64x64:1"], "has fewer than 2 frames"),
    ],
)
def test_bad_frames_exit_with_2_and_one_line(
    command: Callable[..., Outcome], folder: Path, tmp_path: Path, frames: list[str], message: str
) -> None:
    for path in folder.iterdir():
        cv2.imwrite(str(path), np.zeros((180, 320, 3), np.uint8))
    options = [option for name in frames for option in ("--frames", name.replace("{black}", str(folder)))]
    outcome = command("export", "skd-64", "--out", tmp_path / "r", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("fake_timer")
def test_command_exports_a_student(command: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    outcome = command("export", "skd-64", "--frames", folder, "--out", tmp_path / "r", "--form", "stream")
    assert outcome.code == 0, outcome.err
    assert "stream int8" in outcome.out
    assert outcome.out.splitlines()[-1] == f"next: aerogaze profile {tmp_path / 'r'}"
    assert load_release(tmp_path / "r").name == "skd-64"


@pytest.mark.usefixtures("fake_timer")
@pytest.mark.parametrize(
    ("words", "name"), [([], "my-student-v2"), (["--name", "harbour_1.0"], "harbour_1.0")]
)
def test_release_has_the_name_that_the_user_gives(
    command: Callable[..., Outcome], folder: Path, tmp_path: Path, words: list[str], name: str
) -> None:
    student = tmp_path / "my student (v2.safetensors"
    shutil.copyfile(SHIPPED_STUDENTS / "skd-32.safetensors", student)
    assert load_student(student).name == "my student (v2"
    out = tmp_path / "r"
    exported = command("export", student, "--frames", folder, "--out", out, "--form", "stream", *words)
    assert exported.code == 0, exported.err
    assert f"{name} -> " in exported.out
    assert load_release(out).name == name
    run = command("run", "synthetic:7:320x180:4", "--release", out, "--precision", "fp32")
    assert f", {name} fp32, onnxruntime" in run.out


@pytest.mark.parametrize("name", ["", "a b", "-x", "é", "a/b", "x" * 101])
def test_name_that_no_bundle_could_have_is_refused(
    command: Callable[..., Outcome], folder: Path, tmp_path: Path, name: str
) -> None:
    outcome = command("export", "skd-32", "--frames", folder, "--out", tmp_path / "r", "--name", name)
    assert outcome.code == 2
    assert "cannot be the name of a release; expected up to 100 letters, digits" in outcome.err
    assert outcome.err.count("\n") == 1
