"""Quantisation-aware distillation: on students whose int8 misses, in the places that calibration chose."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
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
from edge.metrics.saliency import cc
from edge.release.manifest import load_release
from edge.release.quantization import QUANTIZATION_FILE, TRAINED_KEY, QuantizationRecord, load_quantization
from edge.simulation.world import World
from edge.sources.factory import open_source
from export.graphs.onnx_export import export_onnx
from export.release.builder import make_release
from export.release.parity import student_feeder
from export.release.recalibrate import calibrate_release
from tests.conftest import Outcome
from tests.export.conftest import FAST
from tests.trainer.models.test_streaming import settled
from trainer.models.batch_norm_folding import fold_batch_norm, unfold_batch_norm
from trainer.models.forms import forms_of
from trainer.models.student import SkdSettings, StreamingSettings, Student, load_student
from trainer.recipes.loader import QatRecipe, load_recipe
from trainer.training.fake_quantization import fake_quantize, run_form
from trainer.training.loop import TrainingRun
from trainer.training.run import train

QUICK = {"workers": "0", "tuning.steps": "3", "tuning.batch": "4", "tuning.rate": "1e-4"}
SHORT = replace(FAST, tries=1)


def spoilt() -> Student:
    """Return the shipped student at R = 32, with a weight in each channel that coarsens all others' steps."""
    shipped = load_student("skd-64")
    network = copy.deepcopy(shipped.network)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.in_channels >= 16:
                rows = layer.weight.view(layer.out_channels, -1)
                rows[torch.arange(len(rows)), rows.abs().argmin(1)] = 6 * rows.abs().amax(1)
    return Student("spoilt", SkdSettings(32, "previous", "log_density"), network.eval(), {"data": "none"})


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two made flights of 24 frames, to train on and to calibrate with."""
    place = tmp_path_factory.mktemp("videos")
    for seed in (1, 2):
        writer = cv2.VideoWriter(str(place / f"{seed}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 72))
        world = World(seed, 128, 72, 10)
        for index in range(24):
            writer.write(world.frame(index).image)
        writer.release()
    return place


def footage(student: Student, videos: Path) -> CalibrationFrames:
    sources = [open_source(str(path)) for path in sorted(videos.iterdir())]
    return read_frames(sources, student.settings.preprocessing(), forms_of(student).window, 24)


@pytest.fixture(scope="module")
def missed(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> tuple[Path, Path]:
    """A student whose int8 misses the budget, and its release."""
    place, student = tmp_path_factory.mktemp("missed"), spoilt()
    student.save(place / "spoilt.safetensors")
    make_release(student, footage(student, videos), place / "r", ["stream"], SHORT)
    return place / "spoilt.safetensors", place / "r"


def quick(student: Path, release: Path, changes: dict[str, str] | None = None) -> QatRecipe:
    paths = {"student.weights": json.dumps(str(student)), "student.release": json.dumps(str(release))}
    recipe = load_recipe("qat", {**QUICK, **paths, **(changes or {})})
    assert isinstance(recipe, QatRecipe)
    return recipe


def of(videos: Path) -> dict[str, str]:
    """Return the changes of a recipe that is trained on these."""
    return {"data.kind": "videos", "data.root": json.dumps(str(videos))}


def test_int8_comes_closer_and_keeps_its_places_and_ranges(
    missed: tuple[Path, Path], videos: Path, tmp_path: Path
) -> None:
    student, place = missed
    before = load_release(place).calibrated
    assert before is not None
    assert before["int8"]["stream"][1]["tried"][0]["budget_spent"] > 1
    tuned = train(quick(student, place, {"tuning.steps": "60", "tuning.batch": "8", **of(videos)}))
    assert tuned.name == "spoilt-qat"
    assert tuned.trained["qat"]["kld_after"] < 0.75 * tuned.trained["qat"]["kld_before"]
    frames = footage(tuned, videos)
    made = make_release(tuned, frames, tmp_path / "r", ["stream"], SHORT)
    assert made.calibrated is not None
    engines = [before["int8"]["stream"][1], made.calibrated["int8"]["stream"][1]]
    missed_by, comes_to = (one["tried"][0]["kld"] for one in engines)
    assert comes_to < 0.95 * missed_by
    told, now = (load_quantization(p / QUANTIZATION_FILE)["stream"] for p in (place, tmp_path / "r"))
    assert now.places["tensorrt"] == told.places["tensorrt"]
    again = calibrate_release(load_release(tmp_path / "r"), frames, tmp_path / "again", SHORT, "10.3.0")
    assert again["stream"].quantization.places["tensorrt"] == told.places["tensorrt"]


@pytest.mark.parametrize("kind", ["skd", "streaming"])
def test_what_is_trained_through_is_what_the_graph_computes(kind: str, videos: Path) -> None:
    """A step of the fake-quantised network against the Q/DQ graph in ONNX Runtime, as it is written."""
    student = spoilt()
    if kind == "streaming":
        student = Student("small", StreamingSettings(96, 128, 4), settled(4), {"data": "none"})
    model, feeder = export_onnx(student, "stream", 1), student_feeder(student, "stream")
    window = next(iter(footage(student, videos).windows))
    feed = feeder(open_session(model), window)
    ranges = collect_ranges(model, [feed], "minmax")
    inputs, outputs = (tuple(v.name for v in values) for values in (model.graph.input, model.graph.output))
    told = QuantizationRecord(inputs, outputs, {"tensorrt": find_qdq_placement(model, ranges, TENSORRT)})
    fake = fake_quantize(student, "stream", 1, told, "tensorrt")
    session = open_session(quantize(model, ranges, TENSORRT), disable_qdq_fusion=True)
    kept = [told.outputs[0], told.outputs[1]]
    wanted = [one.run(kept, feed) for one in (session, open_session(model))]
    with torch.no_grad():
        given = [value.numpy() for value in fake(*map(torch.from_numpy, feed.values()))[:2]]
    for got, expected, plain in zip(given, *wanted, strict=True):
        off = float(np.abs(expected - plain).max())
        if got is given[1] or kind == "skd":  # a value half-way may go either way: a deep map shows that
            assert np.mean(np.abs(got - expected) > 1e-5) < 0.01
        assert np.abs(got - expected).mean() < 0.6 * np.abs(expected - plain).mean() < off
    with torch.no_grad():  # and stepped through a window
        shown = torch.from_numpy(student.settings.preprocessing().stack_window(list(window)))
        stepped = run_form(fake, student, "stream", shown)[0, 0].numpy()
    # A streaming student's map is a density: an exponential of what is off by halves of a step.
    assert cc(stepped, feeder.run(session, window)) > (0.999 if kind == "skd" else 0.99)


@pytest.mark.parametrize("kind", ["skd", "streaming"])
def test_unfolded_is_the_folded_network(kind: str) -> None:
    student = spoilt()
    if kind == "streaming":
        student = Student("small", StreamingSettings(96, 128, 4), settled(4), {"data": "none"})
    module = copy.deepcopy(forms_of(student).modules["stream"])
    values = {name: value * 1.01 for name, value in fold_batch_norm(module).state_dict().items()}
    unfold_batch_norm(module, values)
    for name, value in fold_batch_norm(module).state_dict().items():
        torch.testing.assert_close(value, values[name], atol=1e-6, rtol=1e-5)


def test_a_killed_run_goes_on(missed: tuple[Path, Path], videos: Path, tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818
        pass

    steps: list[int] = []

    def watch(progress: object) -> None:
        steps.append(progress.step)  # type: ignore[attr-defined]
        if len(steps) == 3:
            raise Killed

    recipe = quick(*missed, {"tuning.steps": "4", **of(videos)})
    with pytest.raises(Killed):
        train(recipe, TrainingRun(tmp_path / "run", 2, watch))
    tuned = train(recipe, TrainingRun(tmp_path / "run", 2, watch))
    assert steps == [1, 2, 3, 3, 4]
    assert tuned.trained[TRAINED_KEY]["form"] == "stream"
    with pytest.raises(InputError, match="holds the training of another recipe"):
        train(quick(*missed, {"tuning.steps": "5"}), TrainingRun(tmp_path / "run"))


def test_the_command_tunes_a_student(
    missed: tuple[Path, Path], tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    student, place = missed
    out = tmp_path / "tuned.safetensors"
    world = {"world.width": "96", "world.height": "64", "tuning.batch": "2"}
    words = [word for key, value in {**QUICK, **world}.items() for word in ("--set", f"{key}={value}")]
    outcome = command("train", student, "--qat", place, "--out", out, *words)
    assert outcome.code == 0, outcome.err
    assert "KLD of int8 maps to fp32's" in outcome.out
    assert load_student(out).trained["qat"]["recipe"]["tuning"]["steps"] == 3


@pytest.mark.parametrize(
    ("student", "release", "words", "message"),
    [
        ("skd-64", "{r}", [], "was not made of student skd-64"),
        ("{s}", "none", [], "no release 'none'"),
        ("none", "{r}", [], "no student 'none'"),
        ("{s}", "{r}", ["--set", "data.kind=videos"], "needs data.root"),
        ("{s}", "{r}", ["--set", "tuning.steps=0"], "nothing would be trained"),
        ("{s}", "{r}", ["--describe"], "--qat tunes one that is there"),
    ],
)
def test_bad_use_is_one_clear_line(
    missed: tuple[Path, Path],
    tmp_path: Path,
    command: Callable[..., Outcome],
    student: str,
    release: str,
    words: list[str],
    message: str,
) -> None:
    named = [name.format(s=missed[0], r=missed[1]) for name in (student, release)]
    outcome = command("train", named[0], "--qat", named[1], "--out", tmp_path / "o.safetensors", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
