"""TinyHD S and M as releases: whole clips in, one map or sixteen; run frame by frame."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from calibration.inputs.calibration_frames import read_frames
from edge.core.errors import CheckError, InputError
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.release.manifest import load_release
from edge.release.manifest import ClipSpec
from edge.simulation.world import World
from edge.sources.factory import open_source
from export.release.clip_release import make_clip_release
from tests.conftest import Outcome
from tests.support.untrained import settled
from trainer.models.mobilenet3d import CLIP
from trainer.models.student import Student, TinyHDSettings
from trainer.models.tinyhd import MAPS, Variant

Command = Callable[..., Outcome]
SIDE = 64


def untrained(variant: Variant, contrast: float = 1.0) -> Student:
    torch.manual_seed(0)
    settings = TinyHDSettings(variant, 8, height=SIDE, width=SIDE)
    return Student(
        f"tiny-{variant}", settings, settled(settings.build(), SIDE, SIDE, contrast), {"data": "none"}
    )


@pytest.fixture(scope="module", params=["S", "M"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Path]:
    """A student, and its release."""
    student = untrained(request.param)
    place = tmp_path_factory.mktemp("clips") / "r"
    source = open_source("synthetic:7:320x180:18")
    footage = read_frames([source], student.settings.preprocessing(), CLIP, 3)
    make_clip_release(student, footage, place)
    return student, place


def pytorch(student: Student, clip: np.ndarray) -> np.ndarray:
    """Return the maps of one clip (16, H, W, 3)."""
    prepare = student.settings.preprocessing()
    with torch.inference_mode():
        tensor = torch.from_numpy(np.stack([prepare(frame) for frame in clip], axis=2))
        return np.asarray(student.network(tensor).fused[0].numpy())


def test_its_graphs_are_the_student(made: tuple[Student, Path]) -> None:
    student, place = made
    release = load_release(place)
    variant: Variant = "S" if "S" in student.name else "M"
    assert release.clip == ClipSpec(CLIP, MAPS[variant])
    assert release.precisions("clip") == ("fp32", "fp16")
    assert release.delay_frames == student.settings.delay_frames
    for graph, found in release.verified():
        assert found.max_error < (1e-5 if graph.precision == "fp32" else 1e-2)
        assert found.mean_cc > (0.999999 if graph.precision == "fp32" else 0.9999)
    operators = {node.op_type for node in onnx.load(place / "clip.fp32.onnx").graph.node}
    assert "BatchNormalization" not in operators


def test_maps_flatter_than_float16_tells_are_not_released(tmp_path: Path) -> None:
    student = untrained("M", contrast=0.01)
    footage = read_frames([open_source("synthetic:7:320x180:18")], student.settings.preprocessing(), CLIP, 3)
    with pytest.raises(CheckError, match=r"the fp16 graph .* 1e-04 \(node \S+ \(Sigmoid\) loses most"):
        make_clip_release(student, footage, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_frame_by_frame_gives_each_frame_its_map(made: tuple[Student, Path]) -> None:
    """S slides its clip by a frame; M takes block after block, the last filled with the last frame."""
    student, place = made
    world = World(3, 320, 180)
    frames = np.stack([world.frame(index).image for index in range(20)])
    model = SaliencyModel(place, "fp32")
    for _ in range(2):  # a fresh start forgets the past
        maps = compute_clip_maps(model, frames)
        assert maps.shape == (20, SIDE, SIDE)
        if student.settings.delay_frames:
            padded = np.concatenate([frames, np.repeat(frames[-1:], 12, axis=0)])
            expected = np.concatenate([pytorch(student, padded[:16]), pytorch(student, padded[16:])])[:20]
        else:
            padded = np.concatenate([np.repeat(frames[:1], 15, axis=0), frames])
            expected = np.concatenate([pytorch(student, padded[i : i + CLIP]) for i in range(20)])
        np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_it_is_run_compared_profiled_and_built(
    made: tuple[Student, Path], tmp_path: Path, command: Command
) -> None:
    _, place = made
    outcome = command("run", "synthetic:8:320x180:18", "--release", place, "--maps", tmp_path / "maps")
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "maps").iterdir())) == 18
    words = ["compare", f"{place}:fp32", f"{place}:fp16", "--frames", "synthetic:8:320x180:16"]
    outcome = command(*words, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["outputs"]["saliency"]["cc"] > 0.99
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        outcome = command("build", place, "--target", "rtx", "--out", tmp_path / "engines")
        assert outcome.code == 0, outcome.err
        assert len(list((tmp_path / "engines").glob("*.engine"))) == 2


def test_what_it_does_not_do_is_said(made: tuple[Student, Path], command: Command, tmp_path: Path) -> None:
    student, place = made
    student.save(tmp_path / "student.safetensors")
    words = ["export", tmp_path / "student.safetensors", "--frames", "synthetic:7:320x180:17"]
    outcome = command(*words, "--out", tmp_path / "r", "--form", "stream")
    assert outcome.code == 2
    assert "has no stream form; it has clip" in outcome.err
    with pytest.raises(InputError, match="has no int8 graph in clip form"):
        SaliencyModel(place, "int8")
