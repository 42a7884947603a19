"""`aerogaze import` of ONNX files: releases of networks of different makes, against the files themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.release.manifest import load_release
from edge.release.release import ClipSpec
from edge.simulation.world import World
from export.release.recalibrate import release_feeder
from tests.conftest import Outcome
from tests.support import foreign_networks as networks
from tests.support.foreign_networks import HEIGHT, WIDTH, WINDOW, save_network

pytestmark = pytest.mark.usefixtures("fake_timer")
Command = Callable[..., Outcome]
Frames = np.ndarray
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float32))))


def _upsampling_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    values = ((frames[..., ::-1] / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return [cv2.resize(m[0], (32, 24)) for m in _session(path).run(None, {"image": values})[0]]


def _channels_last_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    session = _session(path)
    rgb = np.ascontiguousarray(frames[..., ::-1])
    return [_sigmoid(session.run(None, {"frame": frame[None]})[0][0, :, :, 0]) for frame in rgb]


def _log_density_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    session, values = _session(path), (frames[..., ::-1] / 127.5 - 1).transpose(0, 3, 1, 2)
    inputs = (value[None].astype(np.float32) for value in values)
    return [np.exp(session.run(["log_density"], {"rgb": value})[0][0, 0]) for value in inputs]


def _window_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    session, values = _session(path), (frames[..., ::-1] / 255).transpose(0, 3, 1, 2).astype(np.float32)
    padded = np.concatenate([values[:1]] * (WINDOW - 1) + [values])
    clips = (padded[at : at + WINDOW][None] for at in range(len(values)))
    return [session.run(None, {"clip": clip})[0][0] for clip in clips]


def _recurrent_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    session, maps = _session(path), []
    state = np.zeros((1, 16, HEIGHT // 2, WIDTH // 2), np.float32)
    for frame in frames:
        value = (frame.astype(np.float32) - np.array([104, 117, 123], np.float32)).transpose(2, 0, 1)[None]
        flat, state = session.run(["flat_map", "h_next"], {"bgr": value, "h": state})
        maps.append(flat.reshape(HEIGHT // 2, WIDTH // 2))
    return maps


def _half_maps(path: Path, frames: Frames) -> list[np.ndarray]:
    session = _session(path)
    grey = frames.astype(np.float32) @ np.array([0.114, 0.587, 0.299], np.float32) / 255
    return [_sigmoid(session.run(None, {"gray": g[None, None].astype(np.float16)})[0][0, 0]) for g in grey]


@dataclass(frozen=True)
class _Case:
    """A network, the options that it needs, and its maps by plain code."""

    model: Callable[[], onnx.ModelProto]
    options: Sequence[str]
    maps: Callable[[Path, Frames], list[np.ndarray]]
    tolerance: float = 2e-5


CASES = {
    "opset 11, dynamic batch, Resize": _Case(
        networks.upsampling_network, ["--preset", "imagenet", "--map", "32x24"], _upsampling_maps
    ),
    "opset 13, uint8, NHWC": _Case(
        networks.channels_last_network, ["--colour", "rgb", "--activation", "sigmoid"], _channels_last_maps
    ),
    "opset 22, two outputs, log density": _Case(
        networks.log_density_network,
        ["--preset", "symmetric", "--colour", "rgb", "--output", "log_density"],
        _log_density_maps,
    ),
    "opset 17, a window of frames": _Case(
        networks.window_network, ["--preset", "unit", "--colour", "rgb"], _window_maps
    ),
    "opset 20, a state, BGR, flat output": _Case(
        networks.recurrent_network,
        [
            *("--state", "h=h_next", "--size", f"{WIDTH}x{HEIGHT}", "--map", f"{WIDTH // 2}x{HEIGHT // 2}"),
            *("--colour", "bgr", "--mean", "104,117,123", "--std", "1"),
        ],
        _recurrent_maps,
    ),
    "opset 12, float16, grey": _Case(
        networks.half_network, ["--preset", "unit", "--activation", "sigmoid"], _half_maps, 5e-3
    ),
}


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Twenty-four frames of the networks' size, so that nothing is resized."""
    world = World(5, WIDTH, HEIGHT)
    return np.stack([world.frame(index).image for index in range(24)])


@pytest.fixture(scope="module")
def footage(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:02d}.png"), frame)
    return folder


def _import(command: Command, path: Path, footage: Path, out: Path, *options: str) -> Outcome:
    return command("import", path, "--frames", footage, "--out", out, *options)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_imported_network_gives_the_maps_of_its_file_in_every_precision(
    case: _Case, command: Command, frames: Frames, footage: Path, tmp_path: Path
) -> None:
    path, out = save_network(case.model(), tmp_path / "network.onnx"), tmp_path / "release"
    outcome = _import(command, path, footage, out, "--licence", "MIT", *case.options)
    assert outcome.code == 0, outcome.err
    assert "licence: MIT" in outcome.out
    expected = np.stack(case.maps(path, frames))
    for precision in ("fp32", "fp16", "int8"):
        with SaliencyModel(out, precision) as model:
            maps = compute_clip_maps(model, frames)
        assert maps.shape == expected.shape
        if precision == "fp32":
            assert np.abs(maps - expected).max() <= case.tolerance * expected.max()
        correlation = np.corrcoef(maps.ravel(), expected.ravel())[0, 1]
        assert correlation > (0.98 if precision == "int8" else 0.9998), precision
    release = load_release(out)
    (form,) = release.forms()
    feeder, golden = release_feeder(release, form), release.load_golden()
    last = feeder.run(_session(out / f"{form}.fp32.onnx"), golden[0])
    assert np.abs(last - golden[1][-1]).max() <= 5e-5 * expected.max()
    assert {graph.engine for graph in release.graphs} == {"any", "onnxruntime", "tensorrt"}
    card = release.trained["imported"]
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["file"], card["licence"], card["kind"]) == ("network.onnx", "MIT", "onnx")


@pytest.fixture
def upsampling(tmp_path: Path) -> Path:
    return save_network(networks.upsampling_network(), tmp_path / "up.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "up.onnx does not say: the range of its values (--preset"),
        (["--preset", "imagenet", "--d1-last"], "--d1-last is for TinyHD's checkpoints"),
        (["--preset", "imagenet", "--state", "h"], "--state 'h' is not understood"),
        (["--preset", "imagenet", "--window", "2"], "--window 2 does not fit input image"),
        (["--preset", "imagenet", "--map", "large"], "--map 'large' is not valid"),
        (["--preset", "imagenet", "--name", "a b"], "--name 'a b' cannot be the name of a release"),
        (["--kind", "tinyhd", "--preset", "imagenet"], "--preset is for ONNX files"),
    ],
)
def test_options_that_do_not_fit_end_the_command_with_one_line(
    options: list[str], message: str, command: Command, upsampling: Path, footage: Path, tmp_path: Path
) -> None:
    outcome = _import(command, upsampling, footage, tmp_path / "release", *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "release").exists()


def test_file_of_unknown_kind_is_asked_about(command: Command, footage: Path, tmp_path: Path) -> None:
    (tmp_path / "network.bin").write_bytes(b"")
    outcome = _import(command, tmp_path / "network.bin", footage, tmp_path / "release")
    assert (outcome.code, "say which: --kind tinyhd|onnx" in outcome.err) == (2, True)


def test_network_that_computes_with_uint8_is_refused_by_node(
    command: Command, footage: Path, tmp_path: Path
) -> None:
    model = networks.channels_last_network()
    model.graph.node.insert(0, onnx.helper.make_node("Max", ["frame", "frame"], ["twice"], name="brightest"))
    model.graph.node[1].input[0] = "twice"
    path = save_network(model, tmp_path / "network.onnx")
    options = ["--colour", "rgb", "--activation", "sigmoid"]
    outcome = _import(command, path, footage, tmp_path / "release", *options)
    assert outcome.code == 2
    assert "node brightest is a Max of uint8, which does not fly" in outcome.err


def test_network_that_overflows_in_float16_flies_in_the_other_precisions(
    command: Command, footage: Path, tmp_path: Path
) -> None:
    model = networks.upsampling_network()
    for name, factor in (("c2_w", 1e6), ("c2_b", 1e6), ("c3_w", 1e-6)):
        tensor = next(entry for entry in model.graph.initializer if entry.name == name)
        values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    path, out = save_network(model, tmp_path / "network.onnx"), tmp_path / "release"
    outcome = _import(command, path, footage, out, "--preset", "imagenet")
    assert outcome.code == 0, outcome.err
    assert "warning: no fp16: " in outcome.err
    assert "nothing was written" not in outcome.err
    graphs = {(graph.precision, graph.engine) for graph in load_release(out).graphs}
    assert graphs == {("fp32", "any"), ("int8", "onnxruntime"), ("int8", "tensorrt")}


def test_map_that_is_the_same_everywhere_is_refused(command: Command, footage: Path, tmp_path: Path) -> None:
    model = networks.channels_last_network()
    tensor = next(entry for entry in model.graph.initializer if entry.name == "c3_b")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([-1e4], np.float32), "c3_b"))
    path = save_network(model, tmp_path / "network.onnx")
    options = ["--colour", "rgb", "--activation", "none"]
    outcome = _import(command, path, footage, tmp_path / "release", *options)
    assert outcome.code == 2
    assert "output logits is the same everywhere" in outcome.err


def test_release_of_a_window_is_a_stream_that_is_calibrated_again(
    command: Command, footage: Path, tmp_path: Path
) -> None:
    path, out = save_network(networks.window_network(), tmp_path / "network.onnx"), tmp_path / "release"
    assert _import(command, path, footage, out, "--preset", "unit", "--colour", "rgb").code == 0
    outcome = command("calibrate", out, "--frames", footage, "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    release = load_release(tmp_path / "again")
    assert (release.clip, release.forms()) == (ClipSpec(WINDOW, 1), ("stream",))
    assert [state.fixed_lag for state in release.states] == [*range(1, WINDOW)]
    verified = {graph.engine: verification for graph, verification in release.verified_graphs()}
    assert verified["tensorrt"].golden_cc > 0.98
