"""Tests of a streaming student as a release: several states, a window as long as its memory, no pair form."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration.inputs.calibration_frames import read_frames
from calibration.inputs.graph_inputs import open_session
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import Alignment
from edge.release.manifest import load_release
from edge.release.release import PRECISIONS
from edge.simulation.world import World
from edge.sources.factory import open_source
from export.release.builder import make_release
from export.release.fuse_release import make_fused_release
from export.release.parity import student_feeder
from tests.conftest import Outcome
from tests.support.exporting import FAKE_TIMING
from tests.support.untrained import small_streaming_network
from trainer.datasets.clips import LabelledFrame
from trainer.inference.predictors import ReleasePredictor
from trainer.inference.torch_predictors import StudentPredictor
from trainer.models.forms import forms_of
from trainer.models.streaming import WINDOW
from trainer.models.student import StreamingSettings, Student, load_student


@pytest.fixture(scope="module")
def student() -> Student:
    """A small streaming student whose batch norms have seen some data."""
    return Student("small", StreamingSettings(96, 128, 4), small_streaming_network(4), {"data": "none"})


@pytest.fixture(scope="module")
def student_file(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in a file."""
    path = tmp_path_factory.mktemp("student") / "small.safetensors"
    student.save(path)
    return path


@pytest.mark.first
@pytest.mark.usefixtures("loose_budget")
def test_streaming_student_is_exported_built_and_run_by_the_commands(
    student: Student, student_file: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    release_folder = tmp_path / "r"
    outcome = command(
        "export",
        student_file,
        "--frames",
        "synthetic:7:320x180:24",
        "--out",
        release_folder,
        "--blur",
        "0.02",
    )
    assert outcome.code == 0, outcome.err
    release = load_release(release_folder)
    assert (release.inputs, release.preroll, release.delay_frames) == (("frame",), 1, 0)
    assert release.blur == 0.02
    assert [(state.input, state.output, state.lag_s) for state in release.states] == [
        ("x0_4_before", "x0", 0.4),
        ("x0_2_before", "x0", 0.2),
        ("x1_8_before", "x1", 0.8),
        ("x1_4_before", "x1", 0.4),
        ("x2_8_before", "x2", 0.8),
        ("x2_4_before", "x2", 0.4),
    ]
    assert release.states == forms_of(student).states
    for engine in ("onnxruntime", "tensorrt"):
        assert release.precisions("stream", engine) == PRECISIONS
        assert release.precisions("pair", engine) == ()
    for graph, verification in release.verified_graphs():
        assert verification.mean_cc > {"fp32": 0.999999, "fp16": 0.999, "int8": 0.98}[graph.precision]
        if graph.precision == "fp32":
            assert verification.max_error <= 1e-5
    for precision in PRECISIONS:
        model = SaliencyModel(release_folder, precision)
        frames, maps = model.release.load_golden()
        atol = 1e-5 if precision == "fp32" else 0.1
        np.testing.assert_allclose(compute_clip_maps(model, frames), maps, atol=atol)
        model.close()
    session, feeder = (
        open_session(onnx.load(release_folder / "stream.fp32.onnx")),
        student_feeder(student, "stream"),
    )
    for length in (1, 3, 8):  # frames that no state is of are skipped
        window = frames[:length]
        every_frame = replace(feeder, frame_states=False).run(session, window)
        np.testing.assert_array_equal(feeder.run(session, window), every_frame)
    operators = {node.op_type for node in onnx.load(release_folder / "stream.fp32.onnx").graph.node}
    assert operators <= {"Conv", "Clip", "Add", "Concat", "Resize", "ReduceMax", "Sub", "Exp"}
    outcome = command(
        "run", "synthetic:8:320x180:12", "--release", release_folder, "--maps", tmp_path / "maps"
    )
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "maps").iterdir())) == 12
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        outcome = command("build", release_folder, "--target", "rtx")
        assert outcome.code == 0, outcome.err
        assert len(list((release_folder / "engines" / "rtx").glob("*.engine"))) == 3


@pytest.fixture(scope="module")
def aligned_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small streaming student with alignment, in a file."""
    path = tmp_path_factory.mktemp("aligned") / "a.safetensors"
    network = small_streaming_network(4, aligned=True)
    Student("a", StreamingSettings(96, 128, 4, 0.3, True), network, {"data": "none"}).save(path)
    return path


@pytest.mark.usefixtures("fake_timer")
def test_aligned_streaming_student_runs_as_it_was_trained_with_fused_preprocessing_too(
    aligned_file: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    student = load_student(aligned_file)
    footage = read_frames(
        [open_source("synthetic:7:320x180:24")], student.settings.preprocessing(), WINDOW, 24
    )
    options = replace(FAKE_TIMING, max_trials=1)
    make_release(student, footage, tmp_path / "r", options=options)
    release = load_release(tmp_path / "r")
    assert (release.inputs, release.preroll, len(release.states)) == (("frame", "other"), 1, 6)
    assert release.preprocessing.alignment == Alignment(0.3)
    world = World(8, 320, 180)
    clip = [world.frame(index).image for index in range(WINDOW + 2)]
    frames = [LabelledFrame(index, image, None, None, None) for index, image in enumerate(clip)]
    for fps in (10.0, 20.0):  # the alignment has a lag of three frames at 10 fps, six at 20
        expected = [m for _, m in StudentPredictor(str(aligned_file), fps).predict("", frames)]
        maps = [m for _, m in ReleasePredictor(str(tmp_path / "r"), "fp32", fps).predict("", frames)]
        np.testing.assert_allclose(maps, expected, atol=1e-5)
    for precision in PRECISIONS:
        with SaliencyModel(tmp_path / "r", precision) as model:
            golden, expected_maps = model.release.load_golden()
            atol = 1e-5 if precision == "fp32" else 0.1
            np.testing.assert_allclose(compute_clip_maps(model, golden), expected_maps, atol=atol)
    session = open_session(onnx.load(tmp_path / "r" / "stream.fp32.onnx"))
    feeder = student_feeder(student, "stream")
    for length in (1, 3, 8):
        every_frame = replace(feeder, frame_states=False).run(session, golden[:length])
        np.testing.assert_array_equal(feeder.run(session, golden[:length]), every_frame)
    make_fused_release(release, RawFrameSpec(320, 180), tmp_path / "f")
    outcome = command(
        "compare", f"{tmp_path / 'f'}:fp32", f"{tmp_path / 'r'}:fp32",
        "--frames", "synthetic:7:320x180:12", "--min-cc", "0.99",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", f"synthetic:1:64x64:{WINDOW - 1}"], f"has fewer than {WINDOW} frames"),
        (["--frames", "synthetic:1:64x64:9", "--form", "pair"], "has no pair form; it has stream"),
    ],
)
def test_export_that_does_not_fit_the_student_exits_with_2_and_one_line(
    student_file: Path, tmp_path: Path, command: Callable[..., Outcome], options: list[str], message: str
) -> None:
    outcome = command("export", student_file, "--out", tmp_path / "r", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "r").exists()
