"""Tests of the PyTorch runner of a student."""

from __future__ import annotations

import numpy as np
import pytest

from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.release.manifest import load_release
from trainer.inference.torch_runner import torch_candidates


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_student_in_pytorch_reproduces_the_golden_maps(precision: str, tolerance: float) -> None:
    release = load_release("skd-64")
    (candidate,), left_out = torch_candidates("skd-64", release, [precision], "stream", 1, [1, 8])
    assert left_out == ["torch at batch 8: a stream keeps the state of one flight; measure --form pair"]
    model = SaliencyModel.from_runner(release, candidate.precision, candidate.open())
    frames, expected = release.load_golden()
    np.testing.assert_allclose(compute_clip_maps(model, frames), expected, atol=tolerance)
    assert candidate.name == f"torch {precision}"
    model.close()


def test_pair_form_accepts_any_batch() -> None:
    release = load_release("skd-64")
    (candidate,), _ = torch_candidates("skd-64", release, ["fp32"], "pair", 1, [3])
    runner = candidate.open()
    frame = np.random.default_rng(0).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    maps = runner.infer(dict(zip(release.input_names("pair"), (frame, frame), strict=True)))["saliency"]
    assert maps.shape == (3, 1, 64, 64)
    runner.close()
