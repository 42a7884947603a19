"""Tests of fused alignment: the graph of an aligned student takes raw frames and homographies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edge.inference.runner_factory import graph_signature
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from edge.metrics.saliency import cc
from edge.preprocessing.raw_frame import PixelFormat, RawFrameSpec
from edge.preprocessing.transform import Alignment, FramePreprocessor, LaggedMotion, Preprocessing
from edge.profiler.measurement.candidate import golden_feeds
from edge.release.manifest import load_release
from edge.release.release import PRECISIONS, StateSpec
from edge.simulation.world import World
from export.graphs.fused_alignment import EARLIER_FRAME, RESIZED_FRAME, fuse_aligned_preprocessing
from export.release.fuse_release import make_fused_release
from tests.conftest import Outcome
from tests.support.cuda_backends import import_rtx
from tests.support.simulated_gpu import OnnxEngine, SimulatedCuda

Command = Callable[..., Outcome]
SIZE = (320, 180)


@pytest.fixture(scope="module")
def fused_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused") / "raw"
    make_fused_release(load_release("skd-64-motion"), RawFrameSpec(*SIZE), folder)
    return folder


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Eight frames of a place with fields, which the alignment follows well."""
    world = World(7, *SIZE)
    return np.stack([world.frame(index).image for index in range(8)])


def alignment_graph(raw: RawFrameSpec, prepare: Preprocessing, alignment: Alignment) -> onnx.ModelProto:
    """Return a graph that outputs both of its prepared inputs."""
    value, shape = helper.make_tensor_value_info, [1, 3, prepare.height, prepare.width]
    names = {"frame": "now", "other": "past"}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [output]) for name, output in names.items()],
        "prepared",
        [value(name, TensorProto.FLOAT, shape) for name in names],
        [value(name, TensorProto.FLOAT, shape) for name in names.values()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return fuse_aligned_preprocessing(model, ("frame", "other"), prepare, alignment, raw)


@pytest.mark.parametrize(
    ("size", "format", "alignment"),
    [
        ((320, 180), "bgr", Alignment(0.2)),
        ((1280, 720), "bgr", Alignment(0.1, 128, 96)),  # halved twice
        ((320, 180), "nv12", Alignment(0.1)),
        ((201, 131), "bgr", Alignment(0.1, 64, 64)),  # the student's own size
    ],
)
def test_both_inputs_equal_the_reference(
    size: tuple[int, int],
    format: PixelFormat,  # noqa: A002
    alignment: Alignment,
) -> None:
    """But for pixels half-way between two levels, and at the border of what the earlier frame covers."""
    raw, prepare = RawFrameSpec(*size, format), Preprocessing(64, 64, alignment=alignment)
    model = alignment_graph(raw, prepare, alignment)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reference, motion = FramePreprocessor(prepare, fps=10), LaggedMotion(alignment, fps=10)
    world, history = World(7, *size), list[np.ndarray]()
    zeros = np.zeros((1, 3, alignment.height, alignment.width), np.uint8)
    for index in range(4):
        image = raw.round_trip(world.frame(index).image)
        earlier = history[max(0, index - alignment.lag_frames(10))] if history else zeros
        homography = motion(prepare.resize_grey(image))
        feed = {"frame": raw(image), "homography": homography, EARLIER_FRAME: earlier}
        now, past, resized = session.run(["now", "past", RESIZED_FRAME], feed)
        history.append(resized)
        expected = reference(image)
        for actual, wanted in ((now, expected[:1]), (past, expected[1:])):
            off = np.abs(actual - wanted) / prepare.scale
            assert np.quantile(off, 0.95) < (2.01 if format == "nv12" else 1.01)
    assert np.abs(now - past).max() > 0.05  # frames do differ


def test_manifest_states_the_inputs(fused_folder: Path) -> None:
    release = load_release(fused_folder)
    assert release.inputs == ("frame", "homography")
    assert release.states == (StateSpec(EARLIER_FRAME, RESIZED_FRAME, (1, 3, 144, 256), 0.0, 0.3),)
    assert release.input_shapes(1, "stream") == {"frame": (1, 180, 320, 3), "homography": (1, 3, 3)}
    assert release.precisions(engine="tensorrt") == PRECISIONS
    assert {graph.form for graph in release.graphs} == {"stream"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fused_release_gives_the_maps_of_the_plain_one(
    fused_folder: Path, clip: np.ndarray, precision: str
) -> None:
    plain, fused = (SaliencyModel(name, precision, 1) for name in ("skd-64-motion", fused_folder))
    pairs = list(zip(compute_clip_maps(plain, clip), compute_clip_maps(fused, clip), strict=True))
    assert np.mean([cc(*pair) for pair in pairs]) > 0.995
    still = compute_clip_maps(fused, np.stack([clip[-1]] * 4))[-1]
    assert np.abs(still - pairs[-1][1]).max() > 1e-3  # the maps depend on motion
    plain.close()
    fused.close()


def test_frame_that_was_prepared_and_dropped_does_not_mix_up_the_earlier_frames(
    fused_folder: Path, clip: np.ndarray
) -> None:
    """The graph's state knows submitted frames only, so the homography must lead to one of these."""
    model = SaliencyModel(fused_folder, "fp32", 1)
    kept = [0, 1, 3, 4, 6, 7]
    expected = compute_clip_maps(model, clip[kept])
    prepared = [model.prepare(frame) for frame in clip]
    for index, map_expected in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(model.infer(prepared[index]), map_blurred(model, map_expected))
    model.close()


def map_blurred(model: SaliencyModel, saliency: np.ndarray) -> np.ndarray:
    """Return a map as the model blurs it."""
    model._computed.append(saliency)
    return np.asarray(model.collect())


def test_featureless_frames_show_no_motion(fused_folder: Path) -> None:
    """No corner is found, so the current frame takes the place of the earlier one."""
    model = SaliencyModel(fused_folder, "fp32", 1)
    dark, bright = (np.full((180, 320, 3), level, np.uint8) for level in (40, 220))
    alone = compute_clip_maps(model, bright[None])[0]
    after_dark = compute_clip_maps(model, np.stack([dark, dark, dark, bright]))[-1]
    np.testing.assert_array_equal(after_dark, alone)
    model.close()


@pytest.mark.parametrize("zero_copy", [False, True])
def test_tensorrt_runner_feeds_homography_and_state(
    fused_folder: Path, clip: np.ndarray, zero_copy: bool
) -> None:
    """On the simulated GPU, with two frames in flight, and a CUDA graph for each place in the ring."""
    release, cuda = load_release(fused_folder), SimulatedCuda()
    graph = release.graph("fp16", engine="tensorrt")
    engine = OnnxEngine(str(release.path(graph)), cuda)
    options = RunnerOptions(zero_copy=zero_copy)
    runner = TensorRTRunner(engine, cuda, graph_signature(release, graph), options)
    model = SaliencyModel.from_runner(release, "fp16", runner)
    reference = SaliencyModel(release, "fp16", 1)
    model.blur = reference.blur = 0.0
    for fps in (10, 5, 10):
        model.reset(fps)
        reference.reset(fps)
        maps = []
        for index, frame in enumerate(clip):
            model.submit(model.prepare(frame))
            if index:
                maps.append(model.collect())
        maps.append(model.collect())
        expected = [reference.infer(reference.prepare(frame)) for frame in clip]
        np.testing.assert_allclose(np.stack(maps), np.stack(expected), atol=2e-3)
    model.close()
    reference.close()


def test_feeds_of_the_profiler_are_those_of_a_flight(fused_folder: Path) -> None:
    for release in (load_release(fused_folder), load_release("skd-64-motion"), load_release("stream")):
        feeds = golden_feeds(release, "stream", 1)
        shapes = release.input_shapes(1, "stream")
        assert [{name: value.shape for name, value in feed.items()} for feed in feeds] == [shapes] * 8


def test_tensorrt_compiles_the_fused_graphs(fused_folder: Path) -> None:
    import_rtx()
    release = load_release(fused_folder)
    for precision in PRECISIONS:
        model = release.path(release.graph(precision, engine="tensorrt")).read_bytes()
        assert build_plan(model, BuildTarget("rtx")).data


def test_commands_take_the_fused_release(
    fused_folder: Path, tmp_path: Path, folder: Path, command: Command
) -> None:
    outcome = command("run", folder, "--release", fused_folder, "--jsonl", tmp_path / "o.jsonl")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 12
    arguments = ["--frames", "synthetic:7:320x180:8", "--json"]
    outcome = command("compare", "skd-64-motion", f"{fused_folder}:fp32", *arguments)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["outputs"]["saliency"]["cc"] > 0.995
    assert command("profile", fused_folder, "--precision", "int8", "--energy", "0").code == 0
    outcome = command("calibrate", fused_folder, "--frames", folder, "--out", tmp_path / "c")
    assert outcome.code == 2
    assert "calibrate that one, then fuse" in outcome.err
    outcome = command("run", "synthetic:7:160x90:3", "--release", fused_folder)
    assert outcome.code == 2
    assert "this release takes raw frames of 320x180" in outcome.err
