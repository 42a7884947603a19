"""Tests of fused preprocessing: it equals the reference to within a grey level."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from calibration.inputs import distribution_shift
from edge.core.errors import InputError
from edge.inference.saliency_model import SaliencyModel
from edge.inference.tensorrt.api import build_plan
from edge.inference.tensorrt.build_target import BuildTarget
from edge.preprocessing.raw_frame import PixelFormat, RawFrameSpec
from edge.preprocessing.transform import Preprocessing
from edge.release.manifest import load_release
from edge.release.release import PRECISIONS
from edge.simulation.world import World
from export.graphs.fused_preprocessing import fuse_preprocessing
from export.graphs.node_builder import area_weights
from export.release.fuse_release import make_fused_release
from tests.conftest import Outcome

Command = Callable[..., Outcome]
SIZES = [  # odd ratios, odd sides, halved once and twice, enlarged, unchanged
    ((1280, 720), (64, 64)),
    ((320, 180), (256, 192)),
    ((320, 180), (32, 32)),
    ((641, 359), (64, 64)),
    ((333, 777), (96, 128)),
    ((640, 640), (32, 32)),
    ((48, 40), (64, 64)),
    ((64, 64), (64, 64)),
]


def preprocessing_graph(raw: RawFrameSpec, prepare: Preprocessing) -> onnx.ModelProto:
    """Return a graph that outputs its prepared input."""
    value, shape = helper.make_tensor_value_info, [1, 3, prepare.height, prepare.width]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["frame"], ["prepared"])],
        "prepared",
        [value("frame", TensorProto.FLOAT, shape)],
        [value("prepared", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return fuse_preprocessing(model, ["frame"], prepare, raw)


def grey_level_difference(raw: RawFrameSpec, prepare: Preprocessing, image: np.ndarray) -> np.ndarray:
    """Return the absolute difference of graph and reference, in grey levels."""
    model = preprocessing_graph(raw, prepare)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"frame": raw(image)})[0]
    return np.asarray(np.abs(output - prepare(raw.round_trip(image))) / prepare.scale)


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_bgr_preprocessing_equals_the_reference(size: tuple[int, int], target: tuple[int, int]) -> None:
    """Except for means half-way between two levels; if halved or enlarged, for at most one value in seven."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    prepare = Preprocessing(*target)
    shrunk = size[0] >= target[0] and size[1] >= target[1]
    plain = shrunk and not prepare.count_halvings(*size)
    for image in (noise, World(3, *size).frame(2).image):
        off = grey_level_difference(RawFrameSpec(*size), prepare, image)
        assert off.max() < 1.01
        assert (off > 0.01).mean() < (0.005 if plain else 0.15)


@pytest.mark.parametrize(("size", "target"), [s for s in SIZES if s[0][0] % 2 == s[0][1] % 2 == 0])
def test_nv12_preprocessing_equals_the_reference_to_two_levels(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    """The reference rounds the colours of each pixel first, so some values are a level further off."""
    off = grey_level_difference(
        RawFrameSpec(*size, "nv12"), Preprocessing(*target), World(3, *size).frame(2).image
    )
    assert off.max() < 2.01
    assert (off > 0.01).mean() < 0.2


@pytest.mark.parametrize("size", [(1280, 64, 0), (720, 64, 1), (359, 64, 0), (40, 64, 0), (64, 64, 0)])
def test_area_weights_are_means_in_order(size: tuple[int, int, int]) -> None:
    weights = area_weights(*size)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights @ np.arange(size[0]), np.sort(weights @ np.arange(size[0])))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT for RTX is not installed: pip install 'aerogaze[rtx]'",
)
@pytest.mark.parametrize("format", ["bgr", "nv12"])
def test_tensorrt_compiles_fused_preprocessing(format: PixelFormat) -> None:  # noqa: A002
    for size, target in (((1280, 720), (64, 64)), ((642, 358), (96, 128))):
        model = preprocessing_graph(RawFrameSpec(*size, format), Preprocessing(*target))
        assert build_plan(model.SerializeToString(), BuildTarget("rtx")).data


@pytest.mark.parametrize("format", ["bgr", "nv12"])
def test_fused_release_takes_raw_frames(
    tmp_path: Path,
    folder: Path,
    command: Command,
    format: PixelFormat,  # noqa: A002
) -> None:
    release_folder = tmp_path / "raw"
    make_fused_release(load_release("skd-64"), RawFrameSpec(320, 180, format), release_folder)
    release = load_release(release_folder)
    assert release.raw_frame == RawFrameSpec(320, 180, format)
    assert release.precisions(engine="tensorrt") == PRECISIONS
    assert release.load_golden()[0].shape == (8, 180, 320, 3)
    for precision in PRECISIONS:
        SaliencyModel(release, precision).close()  # opening it checks the golden set
    outcome = command("run", folder, "--release", release_folder, "--jsonl", tmp_path / "o.jsonl")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 12
    outcome = command("compare", "skd-64", f"{release_folder}:fp32", "--frames", folder, "--json")
    limit = 0.9999 if format == "bgr" else 0.98  # NV12 has colours at half the resolution
    assert json.loads(outcome.out)["outputs"]["saliency"]["cc"] > limit
    inputs = {i.name: i for i in onnx.load(release_folder / "stream.int8.tensorrt.onnx").graph.input}
    assert inputs["frame"].type.tensor_type.elem_type == TensorProto.UINT8


def test_fused_release_rejects_frames_of_another_size(tmp_path: Path, folder: Path, command: Command) -> None:
    make_fused_release(load_release("skd-64"), RawFrameSpec(160, 90), tmp_path / "raw")
    places = ["--jsonl", tmp_path / "o.jsonl"]
    outcome = command("run", folder, "--release", tmp_path / "raw", *places)
    assert outcome.code == 2
    assert "a frame is 320x180; this release takes raw frames of 160x90: give such" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.usefixtures("fake_timer")
def test_export_command_fuses_preprocessing(folder: Path, tmp_path: Path, command: Command) -> None:
    release_folder = tmp_path / "r"
    arguments = [
        "export",
        "skd-64",
        "--frames",
        folder,
        "--out",
        release_folder,
        "--fuse-preprocess",
        "320x180",
    ]
    outcome = command(*arguments, "--fuse-format", "nv12")
    assert outcome.code == 0, outcome.err
    assert "take raw frames of 320x180 NV12" in outcome.out
    assert {graph.form for graph in load_release(release_folder).graphs} == {"stream"}
    known = distribution_shift.load_statistics(release_folder / distribution_shift.STATISTICS_FILE)
    tensors = {
        name for node in onnx.load(release_folder / "stream.fp32.onnx").graph.node for name in node.output
    }
    assert known.keys() <= tensors
    assert known
    assert command("profile", release_folder, "--precision", "int8").code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fuse-preprocess", "1280"], "frame size '1280' is not valid; expected WIDTHxHEIGHT"),
        (["--fuse-preprocess", "0x9"], "frame size '0x9' is not valid"),
        (["--fuse-preprocess", "321x180", "--fuse-format", "nv12"], "no NV12 frame has 321x180 pixels"),
        (["--fuse-preprocess", "320x180", "--form", "pair"], "makes streaming graphs only"),
    ],
)
def test_bad_fusion_options_exit_with_2_and_one_line(
    folder: Path, tmp_path: Path, command: Command, options: list[str], message: str
) -> None:
    outcome = command("export", "skd-64", "--frames", folder, "--out", tmp_path / "r", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_release_cannot_be_fused_twice(tmp_path: Path) -> None:
    first = make_fused_release(load_release("skd-64"), RawFrameSpec(160, 90), tmp_path / "first")
    with pytest.raises(InputError, match="takes raw frames already"):
        make_fused_release(first, RawFrameSpec(160, 90), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_nv12_keeps_grey_and_has_the_stated_shape() -> None:
    raw = RawFrameSpec(64, 48, "nv12")
    grey = np.repeat(np.random.default_rng(1).integers(16, 235, (48, 64, 1), np.uint8), 3, axis=2)
    assert raw(grey).shape == raw.shape == (1, 72, 64)
    assert np.abs(raw.round_trip(grey).astype(int) - grey).max() <= 2
    red = np.full((48, 64, 3), (0, 0, 200), np.uint8)
    colours = raw(red)[0, 48:].reshape(24, 32, 2)
    assert (colours[..., 0] < 128).all()  # U
    assert (colours[..., 1] > 200).all()  # V
    back = cv2.cvtColor(raw(red)[0], cv2.COLOR_YUV2BGR_NV12)
    assert np.abs(np.asarray(back).astype(int) - red).max() <= 3
