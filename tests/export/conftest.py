"""Small students, and frames to export them with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.frames import CalibrationFrames
from trainer.models.skd import SpatiotemporalNetwork
from trainer.models.student import Pair, SkdSettings, Student


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
    from edge.preprocess import Preprocessing

    small = np.stack([Preprocessing(32, 32).resize(frame) for frame in flight])
    windows = np.stack([small[:-1], small[1:]], axis=1)
    return CalibrationFrames(windows[:8], windows[-2:], small[:8], "flight")
