"""Untrained students, and a timer that does not depend on the machine, for tests of exports."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.quantization.qdq import quantized_nodes
from calibration.search.latency_benchmark import ConfirmedLatency
from edge.preprocessing.transform import Preprocessing
from export.graphs.int8_search import CalibrationOptions
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student


class FakeTimer:
    """Latency timer that reports a saving of 5 % for each layer in int8, on every machine."""

    kind = "measured"

    def __init__(self, *arguments: object) -> None:
        pass

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        return 1 - 0.05 * len(quantized_nodes(candidate)), 1.0

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        candidate_ms, float_ms = self(candidate)
        return ConfirmedLatency(candidate_ms, float_ms, 1 - candidate_ms / float_ms)

    def layer_gains(self, candidate: onnx.ModelProto) -> None:
        """Return nothing: the layers were not timed."""

    def conditions(self) -> dict[str, object]:
        return {"name": "a test"}


FAKE_TIMING = CalibrationOptions(timer=FakeTimer)


def random_student(resolution: int, pair: Pair) -> Student:
    """Return an untrained student whose batch norms have seen some data."""
    torch.manual_seed(0)
    network = SpatiotemporalNetwork().train()
    for _ in range(3):
        network(*torch.randn(2, 4, 3, resolution, resolution))
    settings = SkdSettings(resolution, pair, "log_density")
    return Student(f"random-{resolution}", settings, network.eval(), {"data": "none"})


def small_footage(flight: np.ndarray) -> CalibrationFrames:
    """Return frame pairs of a flight at R = 32: eight to calibrate on, two held out."""
    small = np.stack([Preprocessing(32, 32).resize(frame) for frame in flight])
    windows = np.stack([small[:-1], small[1:]], axis=1)
    return CalibrationFrames(windows[:8], windows[-2:], small[:8], "flight")
