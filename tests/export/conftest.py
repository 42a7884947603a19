"""Small students, and frames to export them with."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.quantization.qdq import quantized_nodes
from calibration.search.accuracy import AccuracyBudget
from calibration.search.latency_benchmark import ConfirmedLatency
from export.cli import export as commands
from export.graphs import int8
from export.graphs.int8 import CalibrationOptions
from export.release.builder import EXPORT_OPTIONS
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student


class Fast:
    """Each layer in int8 is said to save a twentieth: what is measured here hangs on the machine."""

    kind = "measured"

    def __init__(self, *arguments: object) -> None:
        pass

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        return 1 - 0.05 * len(quantized_nodes(candidate)), 1.0

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        candidate_ms, float_ms = self(candidate)
        return ConfirmedLatency(candidate_ms, float_ms, 1 - candidate_ms / float_ms)

    def conditions(self) -> dict[str, object]:
        return {"name": "a test"}


FAST = CalibrationOptions(timer=Fast)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands take `Fast` for any timer."""
    monkeypatch.setattr(int8, "MeasuredLatency", Fast)
    monkeypatch.setattr(int8, "ModelledLatency", Fast)


@pytest.fixture
def lenient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command export take int8 graphs of untrained students, too."""
    budget = AccuracyBudget(cc=0.02, kld=0.02)
    monkeypatch.setattr(commands, "EXPORT", dataclasses.replace(EXPORT_OPTIONS, budget=budget))


def random_student(resolution: int, pair: Pair) -> Student:
    """Return an untrained student whose batch norms have seen some data."""
    torch.manual_seed(0)
    network = SpatiotemporalNetwork().train()
    for _ in range(3):
        network(*torch.randn(2, 4, 3, resolution, resolution))
    settings = SkdSettings(resolution, pair, "log_density")
    return Student(f"random-{resolution}", settings, network.eval(), {"data": "none"})


@pytest.fixture(params=["previous", "next"])
def student(request: pytest.FixtureRequest) -> Student:
    """An untrained student at R = 32, paired either way."""
    return random_student(32, request.param)


@pytest.fixture
def footage(flight: np.ndarray) -> CalibrationFrames:
    """Frame pairs at R = 32: eight to calibrate on, two held out."""
    from edge.preprocessing.transform import Preprocessing

    small = np.stack([Preprocessing(32, 32).resize(frame) for frame in flight])
    windows = np.stack([small[:-1], small[1:]], axis=1)
    return CalibrationFrames(windows[:8], windows[-2:], small[:8], "flight")
