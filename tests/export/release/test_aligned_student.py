"""Tests of a student with alignment: exported, verified, compared and run as it was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from calibration.inputs.graph_inputs import open_session
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.pipeline.run import RunHooks, run_pipeline
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.release.manifest import load_release
from edge.release.release import PRECISIONS
from edge.sources.factory import open_source
from tests.conftest import Outcome
from trainer.datasets.clips import LabelledFrame
from trainer.evaluation.motion_twins import twin_clips
from trainer.inference.torch_predictors import StudentPredictor
from trainer.models.student import SkdSettings, Student


@pytest.fixture(scope="module")
def student_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    settings = SkdSettings(32, "previous", "log_density", lag_s=0.3, align=True)
    network = settings.build().train()
    frames = np.concatenate([Preprocessing(32, 32)(frame) for frame in next(twin_clips())[0].frames])
    for _ in range(12):  # adapts batch norms to footage; otherwise the signal is lost in them
        network(torch.from_numpy(frames), torch.from_numpy(frames).roll(1, 0))
    path = tmp_path_factory.mktemp("student") / "a.safetensors"
    Student("a", settings, network.eval(), {"data": "none"}).save(path)
    return path


@pytest.mark.usefixtures("loose_budget")
def test_aligned_student_is_exported_and_run_as_it_was_trained(
    student_file: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    release_folder = tmp_path / "r"
    outcome = command("export", student_file, "--frames", "synthetic:7:320x180:24", "--out", release_folder)
    assert outcome.code == 0, outcome.err
    release = load_release(release_folder)
    assert (release.inputs, release.states, release.preroll) == (("frame", "other"), (), 0)
    assert release.preprocessing.alignment == Alignment(0.3)
    for form in ("stream", "pair"):
        for engine in ("onnxruntime", "tensorrt"):
            assert release.precisions(form, engine) == PRECISIONS
    for graph, verification in release.verified_graphs():
        assert verification.mean_cc > (0.98 if graph.precision == "int8" else 0.999)
    feed = np.random.default_rng(0).uniform(-1, 1, (2, 2, 3, 32, 32)).astype(np.float32)
    for precision in PRECISIONS:  # the pair form is the stream form with any batch
        pair, stream = (
            open_session(onnx.load(release.path(release.graph(precision, form))))
            for form in ("pair", "stream")
        )
        maps_of_both = pair.run(None, dict(zip(release.inputs, feed, strict=True)))[0]
        maps_of_each = [
            stream.run(
                None, {name: value[at : at + 1] for name, value in zip(release.inputs, feed, strict=True)}
            )[0]
            for at in range(2)
        ]
        np.testing.assert_allclose(maps_of_both, np.concatenate(maps_of_each), atol=1e-5)
    clip = next(twin_clips())[0].frames
    truth = [
        saliency for _, saliency in StudentPredictor(str(student_file), fps=10).predict("", labelled(clip))
    ]
    model = SaliencyModel(release_folder, "fp32")
    np.testing.assert_allclose(compute_clip_maps(model, np.stack(clip)), truth, atol=1e-5)
    frozen = compute_clip_maps(model, np.stack([clip[-1]] * 4))[-1]
    assert np.abs(frozen - truth[-1]).max() > 4e-5  # the maps depend on motion
    source = open_source(str(write_frames(tmp_path / "clip", clip)))
    source.fps = 20
    maps: list[np.ndarray] = []
    run_pipeline(
        source, model, [], hooks=RunHooks(on_result=lambda result: maps.append(result.saliency.copy()))
    )
    *_, (_, map_at_20_fps) = StudentPredictor(str(student_file), fps=20).predict("", labelled(clip))
    np.testing.assert_allclose(maps[-1], map_at_20_fps, atol=1e-5)
    assert np.abs(map_at_20_fps - truth[-1]).max() > 2e-5  # the lag is six frames at 20 fps, three at 10
    model.close()
    outcome = command(
        "run", "synthetic:8:320x180:12", "--release", release_folder, "--maps", tmp_path / "maps"
    )
    assert outcome.code == 0, outcome.err
    outcome = command(
        "compare",
        f"{release_folder}:int8",
        f"{release_folder}:fp32",
        "--frames",
        "synthetic:8:320x180:12",
        "--min-cc",
        "0.9",
    )
    assert outcome.code == 0, outcome.err
    outcome = command(
        "export", student_file, "--frames", "synthetic:7:320x180:24", "--form", "stream",
        "--fuse-preprocess", "640x360", "--out", tmp_path / "f",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    fused = load_release(tmp_path / "f")
    assert (fused.inputs, str(fused.raw_frame)) == (("frame", "homography"), "640x360 BGR")


def write_frames(folder: Path, clip: list[np.ndarray]) -> Path:
    folder.mkdir()
    for index, image in enumerate(clip):
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)
    return folder


def labelled(clip: list[np.ndarray]) -> list[LabelledFrame]:
    return [LabelledFrame(index, image, None, None, None) for index, image in enumerate(clip)]
