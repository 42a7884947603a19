"""A student that looks back past the camera's motion: exported, verified, compared and run as it trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.pipeline.run import run_pipeline
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.release.manifest import load_release
from edge.release.manifest import PRECISIONS
from edge.sources.factory import open_source
from tests.conftest import Outcome
from trainer.datasets.clips import LabelledFrame
from trainer.evaluation.motion_twins import twin_clips
from trainer.inference.predictors import StudentPredictor
from trainer.models.student import SkdSettings, Student


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    settings = SkdSettings(32, "previous", "log_density", lag_s=0.3, align=True)
    network = settings.build().train()
    frames = np.concatenate([Preprocessing(32, 32)(frame) for frame in next(twin_clips())[0].frames])
    for _ in range(12):  # so that batch norms know footage, and no signal is lost in them
        network(torch.from_numpy(frames), torch.from_numpy(frames).roll(1, 0))
    path = tmp_path_factory.mktemp("student") / "a.safetensors"
    Student("a", settings, network.eval(), {"data": "none"}).save(path)
    return path


@pytest.mark.usefixtures("lenient")
def test_it_is_exported_verified_compared_and_run_as_it_was_trained(
    saved: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    place = tmp_path / "r"
    outcome = command("export", saved, "--frames", "synthetic:7:320x180:24", "--out", place)
    assert outcome.code == 0, outcome.err
    release = load_release(place)
    assert (release.inputs, release.states, release.preroll) == (("frame", "other"), (), 0)
    assert release.preprocessing.alignment == Alignment(0.3)
    for form in ("stream", "pair"):
        for engine in ("onnxruntime", "tensorrt"):
            assert release.precisions(form, engine) == PRECISIONS
    for graph, found in release.verified():
        assert found.mean_cc > (0.98 if graph.precision == "int8" else 0.999)
    clip = next(twin_clips())[0].frames
    truth = [saliency for _, saliency in StudentPredictor(str(saved), fps=10).maps("", labelled(clip))]
    model = SaliencyModel(place, "fp32")
    np.testing.assert_allclose(compute_clip_maps(model, np.stack(clip)), truth, atol=1e-5)
    held = compute_clip_maps(model, np.stack([clip[-1]] * 4))[-1]
    assert np.abs(held - truth[-1]).max() > 4e-5  # what moves counts
    source = open_source(str(frames_at(tmp_path / "clip", clip)))
    source.fps = 20
    maps: list[np.ndarray] = []
    run_pipeline(source, model, [], on_result=lambda result: maps.append(result.saliency.copy()))
    *_, (_, six_back) = StudentPredictor(str(saved), fps=20).maps("", labelled(clip))
    np.testing.assert_allclose(maps[-1], six_back, atol=1e-5)
    assert np.abs(six_back - truth[-1]).max() > 2e-5  # which is three back
    model.close()
    outcome = command("run", "synthetic:8:320x180:12", "--release", place, "--maps", tmp_path / "maps")
    assert outcome.code == 0, outcome.err
    outcome = command(
        "compare", f"{place}:int8", f"{place}:fp32", "--frames", "synthetic:8:320x180:12", "--min-cc", "0.9"
    )
    assert outcome.code == 0, outcome.err
    outcome = command(
        "export", saved, "--frames", "synthetic:7:320x180:24", "--out", tmp_path / "f",
        "--fuse-preprocess", "640x360",
    )  # fmt: skip
    assert outcome.code == 2
    assert "looks for the camera's motion" in outcome.err


def frames_at(place: Path, clip: list[np.ndarray]) -> Path:
    place.mkdir()
    for index, image in enumerate(clip):
        cv2.imwrite(str(place / f"{index:03d}.png"), image)
    return place


def labelled(clip: list[np.ndarray]) -> list[LabelledFrame]:
    return [LabelledFrame(index, image, None, None, None) for index, image in enumerate(clip)]
