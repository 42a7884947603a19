"""Quantization-aware distillation of a student that exceeds the accuracy budget in int8."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calibration.inputs.calibration_frames import CalibrationFrames, read_frames
from calibration.inputs.graph_inputs import open_session
from calibration.quantization.qdq import find_qdq_placement, quantize
from calibration.quantization.qdq_placement import TENSORRT
from calibration.ranges.activation_ranges import collect_ranges
from edge.core.errors import InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import cc
from edge.release.manifest import load_release
from edge.release.quantization import QUANTIZATION_FILE, TRAINED_KEY, QuantizationRecord, load_quantization
from edge.sources.factory import open_source
from export.graphs.onnx_export import export_onnx
from export.release.builder import make_release
from export.release.parity import student_feeder
from export.release.recalibrate import calibrate_release
from tests.conftest import Outcome
from tests.support import dataset_trees as trees
from tests.support.exporting import FAKE_TIMING
from tests.support.training import KilledError, set_options
from tests.support.untrained import small_streaming_network
from trainer.models.batch_norm_folding import fold_batch_norm, unfold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import SkdSettings, StreamingSettings, Student, load_student
from trainer.recipes.loader import QatRecipe, load_recipe
from trainer.training.fake_quantization import fake_quantize, run_form
from trainer.training.loop import TrainingRun
from trainer.training.monitor import TrainingProgress
from trainer.training.run import train

SHORT_QAT = {"workers": "0", "tuning.steps": "3", "tuning.batch": "4", "tuning.rate": "1e-4"}
ONE_TRIAL = replace(FAKE_TIMING, max_trials=1)


def coarse_student() -> Student:
    """Return the shipped student at R = 32 with a weight per channel that coarsens the int8 steps."""
    shipped = load_student("skd-64")
    network = copy.deepcopy(shipped.network)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.in_channels >= 16:
                rows = layer.weight.view(layer.out_channels, -1)
                rows[torch.arange(len(rows)), rows.abs().argmin(1)] = 6 * rows.abs().amax(1)
    return Student("coarse", SkdSettings(32, "previous", "log_density"), network.eval(), {"data": "none"})


def streaming_student(aligned: bool = False) -> Student:
    """Return an untrained streaming student."""
    settings = StreamingSettings(96, 128, 4, 0.3 * aligned, aligned)
    return Student("small", settings, small_streaming_network(4, aligned=aligned), {"data": "none"})


STUDENTS: dict[str, Callable[[], Student]] = {
    "skd": coarse_student,
    "streaming": streaming_student,
    "aligned": lambda: streaming_student(aligned=True),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two simulated videos of 24 frames, to train on and to calibrate with."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in (1, 2):
        trees.write_simulated_video(folder / f"{seed}.avi", seed, (128, 72), 24, fps=10)
    return folder


def read_videos(student: Student, videos: Path) -> CalibrationFrames:
    sources = [open_source(str(path)) for path in sorted(videos.iterdir())]
    return read_frames(sources, student.settings.preprocessing(), forms_of(student).window, 24)


@pytest.fixture(scope="module")
def over_budget(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> tuple[Path, Path]:
    """Return a student that exceeds the accuracy budget in int8, and its release."""
    folder, student = tmp_path_factory.mktemp("over_budget"), coarse_student()
    student.save(folder / "coarse.safetensors")
    make_release(student, read_videos(student, videos), folder / "r", ["stream"], ONE_TRIAL)
    return folder / "coarse.safetensors", folder / "r"


def short_qat_recipe(student: Path, release: Path, changes: dict[str, str] | None = None) -> QatRecipe:
    paths = {"student.weights": json.dumps(str(student)), "student.release": json.dumps(str(release))}
    recipe = load_recipe("qat", {**SHORT_QAT, **paths, **(changes or {})})
    assert isinstance(recipe, QatRecipe)
    return recipe


def train_on(videos: Path) -> dict[str, str]:
    """Return the changes of a recipe that trains on these videos."""
    return {"data.kind": "videos", "data.root": json.dumps(str(videos))}


@pytest.mark.first
def test_tuning_reduces_the_int8_error_and_keeps_placement_and_ranges(
    over_budget: tuple[Path, Path], videos: Path, tmp_path: Path
) -> None:
    student, release = over_budget
    before = load_release(release).calibrated
    assert before is not None
    assert before["int8"]["stream"][1]["tried"][0]["budget_spent"] > 1
    tuned = train(
        short_qat_recipe(student, release, {"tuning.steps": "60", "tuning.batch": "8", **train_on(videos)})
    )
    assert tuned.name == "coarse-qat"
    assert tuned.trained["qat"]["kld_after"] < 0.75 * tuned.trained["qat"]["kld_before"]
    frames = read_videos(tuned, videos)
    tuned_release = make_release(tuned, frames, tmp_path / "r", ["stream"], ONE_TRIAL)
    assert tuned_release.calibrated is not None
    engines = [before["int8"]["stream"][1], tuned_release.calibrated["int8"]["stream"][1]]
    kld_before, kld_after = (engine["tried"][0]["kld"] for engine in engines)
    assert kld_after < 0.95 * kld_before
    original, tuned_record = (
        load_quantization(p / QUANTIZATION_FILE)["stream"] for p in (release, tmp_path / "r")
    )
    assert tuned_record.places["tensorrt"] == original.places["tensorrt"]
    recalibrated = calibrate_release(
        load_release(tmp_path / "r"), frames, tmp_path / "recalibrated", ONE_TRIAL
    )
    assert recalibrated["stream"].quantization.places["tensorrt"] == original.places["tensorrt"]


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.first
def test_fake_quantization_computes_the_maps_of_the_int8_graph(kind: str, videos: Path) -> None:
    """Compare one step of the fake-quantized network with the Q/DQ graph in ONNX Runtime."""
    student = STUDENTS[kind]()
    model, feeder = export_onnx(student, "stream", 1), student_feeder(student, "stream")
    window = next(iter(read_videos(student, videos).windows))
    feed = feeder(open_session(model), window)
    ranges = collect_ranges(model, [feed], "minmax")
    input_names, output_names = (
        tuple(v.name for v in values) for values in (model.graph.input, model.graph.output)
    )
    record = QuantizationRecord(
        input_names, output_names, {"tensorrt": find_qdq_placement(model, ranges, TENSORRT)}
    )
    fake = fake_quantize(student, "stream", 1, record, "tensorrt")
    session = open_session(quantize(model, ranges, TENSORRT), disable_qdq_fusion=True)
    outputs = [record.outputs[0], record.outputs[1]]
    expected_outputs = [s.run(outputs, feed) for s in (session, open_session(model))]
    with torch.no_grad():
        computed = [value.numpy() for value in fake(*map(torch.from_numpy, feed.values()))[:2]]
    for index, (value, quantized, exact) in enumerate(zip(computed, *expected_outputs, strict=True)):
        largest_error = float(np.abs(quantized - exact).max())
        # A value half-way between two steps may be rounded either way, which a deep map amplifies.
        if index == 1 or kind == "skd":
            assert np.mean(np.abs(value - quantized) > 1e-5) < 0.01
        mean_error = np.abs(quantized - exact).mean()
        assert np.abs(value - quantized).mean() < 0.6 * mean_error < largest_error
    with torch.no_grad():  # now the same for all steps of a window
        prepare = student.settings.preprocessing()
        frames = torch.from_numpy(prepare.stack_window(list(window), NOMINAL_FPS))
        stepped = run_form(fake, student, "stream", frames)[0, 0].numpy()
    # The map of a streaming student is the exponential of values that differ by half a step.
    assert cc(stepped, feeder.run(session, window)) > (0.999 if kind == "skd" else 0.99)


@pytest.mark.parametrize("kind", STUDENTS)
def test_unfolded_network_folds_to_the_given_weights(kind: str) -> None:
    student = STUDENTS[kind]()
    module = copy.deepcopy(forms_of(student).modules["stream"])
    values = {name: value * 1.01 for name, value in fold_batch_norm(module).state_dict().items()}
    unfold_batch_norm(module, values)
    for name, value in fold_batch_norm(module).state_dict().items():
        torch.testing.assert_close(value, values[name], atol=1e-6, rtol=1e-5)


def test_killed_tuning_resumes(over_budget: tuple[Path, Path], videos: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def kill_at_step_3(progress: TrainingProgress) -> None:
        steps.append(progress.step)
        if len(steps) == 3:
            raise KilledError

    recipe = short_qat_recipe(*over_budget, {"tuning.steps": "4", **train_on(videos)})
    with pytest.raises(KilledError):
        train(recipe, TrainingRun(tmp_path / "run", 2, kill_at_step_3))
    tuned = train(recipe, TrainingRun(tmp_path / "run", 2, kill_at_step_3))
    assert steps == [1, 2, 3, 3, 4]
    assert tuned.trained[TRAINED_KEY]["form"] == "stream"
    with pytest.raises(InputError, match="holds the training of another recipe"):
        train(short_qat_recipe(*over_budget, {"tuning.steps": "5"}), TrainingRun(tmp_path / "run"))


def test_command_tunes_a_student(
    over_budget: tuple[Path, Path], tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    student, release = over_budget
    out = tmp_path / "tuned.safetensors"
    world = {"world.width": "96", "world.height": "64", "tuning.batch": "2"}
    options = set_options({**SHORT_QAT, **world})
    outcome = command("train", student, "--qat", release, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    assert "KLD of int8 maps to fp32's" in outcome.out
    assert load_student(out).trained["qat"]["recipe"]["tuning"]["steps"] == 3


@pytest.mark.parametrize(
    ("student", "release", "options", "message"),
    [
        ("skd-64", "{r}", [], "was not made of student skd-64"),
        ("{s}", "none", [], "no release 'none'"),
        ("none", "{r}", [], "no student 'none'"),
        ("{s}", "{r}", ["--set", "data.kind=videos"], "needs data.root"),
        ("{s}", "{r}", ["--set", "tuning.steps=0"], "nothing would be trained"),
        ("{s}", "{r}", ["--describe"], "--describe does not fit --qat"),
    ],
)
def test_invalid_use_is_reported_in_one_line(
    over_budget: tuple[Path, Path],
    tmp_path: Path,
    command: Callable[..., Outcome],
    student: str,
    release: str,
    options: list[str],
    message: str,
) -> None:
    named = [name.format(s=over_budget[0], r=over_budget[1]) for name in (student, release)]
    outcome = command("train", named[0], "--qat", named[1], "--out", tmp_path / "o.safetensors", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
