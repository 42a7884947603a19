"""Tests of clip releases: TinyHD S and M take whole clips, give 1 or 16 maps, and run frame by frame."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from calibration.inputs.calibration_frames import read_frames
from edge.core.errors import CheckError, InputError
from edge.inference.onnxruntime.tensor_types import infer_tensor_types
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import cc
from edge.release.graph_work import count_work, find_layers
from edge.release.manifest import load_release
from edge.release.onnx_graph import read_onnx_graph
from edge.release.release import ClipSpec, Form, StateSpec
from edge.simulation.world import World
from edge.sources.factory import open_source
from export.release.clip_release import make_clip_release
from tests.conftest import Outcome
from tests.support.made_once import MadeOnce
from tests.support.published_tinyhd import find_weights, formula_clip
from tests.support.untrained import with_statistics
from trainer.models.complexity import multiply_accumulates
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.models.student import Student, TinyHDSettings, load_student
from trainer.models.tinyhd import MAPS, Variant

Command = Callable[..., Outcome]
SIDE = 64


def untrained_student(variant: Variant, contrast: float = 1.0) -> Student:
    torch.manual_seed(0)
    settings = TinyHDSettings(variant, 8, height=SIDE, width=SIDE)
    return Student(
        f"tiny-{variant}", settings, with_statistics(settings.build(), SIDE, SIDE, contrast), {"data": "none"}
    )


@pytest.fixture(
    params=[
        pytest.param(variant, marks=pytest.mark.xdist_group(f"clips-{variant}")) for variant in ("S", "M")
    ]
)
def released(request: pytest.FixtureRequest, made_once: MadeOnce) -> tuple[Student, Path]:
    """A student and the folder of its release, which no test changes."""

    def make(folder: Path) -> None:
        student = untrained_student(request.param)
        source = open_source("synthetic:7:320x180:18")
        footage = read_frames([source], student.settings.preprocessing(), CLIP_FRAMES, 3)
        make_clip_release(student, footage, folder / "r")
        student.save(folder / f"{student.name}.safetensors")

    folder = made_once(f"clip-release-{request.param}", make)
    return load_student(folder / f"tiny-{request.param}.safetensors"), folder / "r"


def pytorch_maps(student: Student, clip: np.ndarray) -> np.ndarray:
    """Return the maps of one clip (16, H, W, 3)."""
    prepare = student.settings.preprocessing()
    with torch.inference_mode():
        tensor = torch.from_numpy(np.stack([prepare(frame) for frame in clip], axis=2))
        return np.asarray(student.network(tensor).fused[0].numpy())


def test_graphs_reproduce_the_student(released: tuple[Student, Path]) -> None:
    student, release_folder = released
    release = load_release(release_folder)
    variant: Variant = "S" if "S" in student.name else "M"
    assert release.clip == ClipSpec(CLIP_FRAMES, MAPS[variant])
    form: Form = "stream" if variant == "S" else "clip"
    assert release.forms() == (form,)
    assert release.precisions(form) == ("fp32", "fp16")
    assert release.delay_frames == student.settings.delay_frames
    for graph, verification in release.verified_graphs():
        assert verification.max_error < (1e-5 if graph.precision == "fp32" else 1e-2)
        assert verification.mean_cc > (0.999999 if graph.precision == "fp32" else 0.9999)
    operators = {node.op_type for node in onnx.load(release_folder / f"{form}.fp32.onnx").graph.node}
    assert "BatchNormalization" not in operators


def test_graph_has_the_multiply_accumulates_of_the_network(released: tuple[Student, Path]) -> None:
    student, release_folder = released
    form = load_release(release_folder).forms()[0]
    path = release_folder / f"{form}.fp32.onnx"
    graph = read_onnx_graph(path)
    works = count_work(graph, infer_tensor_types(path, graph, {}), find_layers(graph))
    clip = torch.zeros(1, 3, CLIP_FRAMES, SIDE, SIDE)
    assert sum(work.macs for work in works.values()) == multiply_accumulates(student.network, clip)


def clip_feed(
    session: ort.InferenceSession, states: tuple[StateSpec, ...], clip: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph for a clip (1, 3, 16, H, W): as it is, or as a frame and those before."""
    if not states:
        return {"frame": clip}
    types = {
        value.name: np.float16 if "float16" in value.type else np.float32 for value in session.get_inputs()
    }
    past = {state.input: clip[:, :, [-1 - state.fixed_lag]].astype(types[state.input]) for state in states}
    return {"frame": clip[:, :, -1], **past}


@pytest.mark.parametrize(("variant", "stride"), [("S", 8), ("M", 16)])
def test_exported_published_weights_give_the_maps_of_the_authors(
    variant: Variant, stride: int, real: Path, tmp_path: Path, command: Command
) -> None:
    weights, student = find_weights(variant), tmp_path / "student.safetensors"
    assert command("import", weights, "--kind", "tinyhd", "--out", student).code == 0
    outcome = command("export", student, "--frames", "synthetic:7:320x180:24", "--out", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    release = load_release(tmp_path / "r")
    assert release.trained["imported"]["file"] == weights.name
    maps = {}
    for precision in ("fp32", "fp16"):
        graph = release.graph(precision, release.forms()[0])
        session = ort.InferenceSession(release.path(graph), providers=["CPUExecutionProvider"])
        feed = clip_feed(session, release.states, formula_clip())
        maps[precision] = np.asarray(session.run(["saliency"], feed)[0])[0]
    expected = np.load(real / "tinyhd_reference.npz")[f"formula_{variant}_grid{stride}_f32"]
    grid = maps["fp32"][:, ::stride, ::stride].reshape(expected.shape)
    np.testing.assert_allclose(grid, expected, atol=1e-4, rtol=0)
    assert min(cc(a, b) for a, b in zip(maps["fp16"], maps["fp32"], strict=True)) > 0.9999


@pytest.mark.first
def test_student_whose_maps_are_too_flat_for_float16_is_not_released(tmp_path: Path) -> None:
    student = untrained_student("M", contrast=0.01)
    with torch.no_grad():
        student.network.get_parameter("fusion.bias").add_(2)  # where the step of float16 is 0.002
    footage = read_frames(
        [open_source("synthetic:7:320x180:18")], student.settings.preprocessing(), CLIP_FRAMES, 3
    )
    with pytest.raises(CheckError, match=r"the fp16 graph .* 1e-04 \(node \S+ \(Conv\) loses most"):
        make_clip_release(student, footage, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_clip_release_run_frame_by_frame_gives_each_frame_its_map(released: tuple[Student, Path]) -> None:
    """S slides its clip by one frame; M takes blocks and fills the last one with the last frame."""
    student, release_folder = released
    world = World(3, 320, 180)
    frames = np.stack([world.frame(index).image for index in range(20)])
    model = SaliencyModel(release_folder, "fp32")
    for _ in range(2):  # the second pass starts from the initial state
        maps = compute_clip_maps(model, frames)
        assert maps.shape == (20, SIDE, SIDE)
        if student.settings.delay_frames:
            padded = np.concatenate([frames, np.repeat(frames[-1:], 12, axis=0)])
            expected = np.concatenate(
                [pytorch_maps(student, padded[:16]), pytorch_maps(student, padded[16:])]
            )[:20]
        else:
            padded = np.concatenate([np.repeat(frames[:1], 15, axis=0), frames])
            expected = np.concatenate([pytorch_maps(student, padded[i : i + CLIP_FRAMES]) for i in range(20)])
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_clip_release_is_run_compared_and_built_by_the_commands(
    released: tuple[Student, Path], tmp_path: Path, command: Command
) -> None:
    _, release_folder = released
    outcome = command(
        "run", "synthetic:8:320x180:18", "--release", release_folder, "--maps", tmp_path / "maps"
    )
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "maps").iterdir())) == 18
    arguments = [
        "compare",
        f"{release_folder}:fp32",
        f"{release_folder}:fp16",
        "--frames",
        "synthetic:8:320x180:16",
    ]
    outcome = command(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["outputs"]["saliency"]["cc"] > 0.99
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        outcome = command("build", release_folder, "--target", "rtx", "--out", tmp_path / "engines")
        assert outcome.code == 0, outcome.err
        assert len(list((tmp_path / "engines").glob("*.engine"))) == 2


def test_sliding_window_gives_each_frame_the_map_of_its_own_window(released: tuple[Student, Path]) -> None:
    student, release_folder = released
    if student.settings.delay_frames == 0:
        with pytest.raises(
            InputError, match="gives one map; --window blocks is for graphs that give a map for"
        ):
            SaliencyModel(release_folder, "fp32", window="blocks")
    model = SaliencyModel(release_folder, "fp32", window="slide")
    assert model.delay_frames == 0
    frames = np.stack([World(3, 320, 180).frame(index).image for index in range(4)])
    padded = np.concatenate([np.repeat(frames[:1], 15, axis=0), frames])
    expected = [pytorch_maps(student, padded[i : i + CLIP_FRAMES])[-1] for i in range(4)]
    np.testing.assert_allclose(compute_clip_maps(model, frames), expected, atol=1e-5)


def test_window_is_for_networks_that_take_clips(command: Command) -> None:
    outcome = command("run", "synthetic:8:320x180:2", "--window", "slide")
    assert outcome.code == 2
    assert "takes one frame at a time and gives one map" in outcome.err


def test_summary_states_the_window_and_the_delay(released: tuple[Student, Path], command: Command) -> None:
    student, release_folder = released
    late = student.settings.delay_frames
    arguments = ["run", "synthetic:8:320x180:3", "--release", release_folder, "--precision", "fp32"]
    summary = json.loads(command(*arguments, "--json").out)
    assert (summary["delay_frames"], summary["window_frames"], summary["frame_rate"]) == (late, 16, 10.0)
    text = command(*arguments).out
    assert "the network sees 16 frames (1.60 s) at once" in text
    assert ("a map comes 15 frames (1.50 s) after its frame, at 10 frames/s" in text) == bool(late)


def test_unsupported_form_and_precision_are_rejected(
    released: tuple[Student, Path], command: Command, tmp_path: Path
) -> None:
    student, release_folder = released
    student.save(tmp_path / "student.safetensors")
    arguments = ["export", tmp_path / "student.safetensors", "--frames", "synthetic:7:320x180:17"]
    outcome = command(*arguments, "--out", tmp_path / "r", "--form", "stream")
    assert outcome.code == 2
    assert "has no stream form; it has clip" in outcome.err
    with pytest.raises(InputError, match=r"has no int8 graph in (clip|stream) form"):
        SaliencyModel(release_folder, "int8")
