"""Fixtures of the export tests: untrained students, footage, and latencies that no machine changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.search.accuracy import AccuracyBudget
from export.cli import export_release
from export.graphs import int8_search
from export.release.builder import EXPORT_OPTIONS
from tests.support.exporting import FakeTimer, random_student, small_footage
from trainer.models.student import Student


@pytest.fixture
def fake_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace both timers of the commands by `FakeTimer`."""
    monkeypatch.setattr(int8_search, "MeasuredLatency", FakeTimer)
    monkeypatch.setattr(int8_search, "ModelledLatency", FakeTimer)


@pytest.fixture
def loose_budget(fake_timer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the export command ship int8 graphs of untrained students, which lose more than trained ones."""
    budget = AccuracyBudget(cc=0.02, kld=0.02)
    options = dataclasses.replace(EXPORT_OPTIONS, budget=budget)
    monkeypatch.setattr(export_release, "EXPORT_OPTIONS", options)


@pytest.fixture(params=["previous", "next"])
def student(request: pytest.FixtureRequest) -> Student:
    """An untrained student at R = 32, paired either way."""
    return random_student(32, request.param)


@pytest.fixture
def footage(flight: np.ndarray) -> CalibrationFrames:
    """Frame pairs at R = 32: eight to calibrate on, two held out."""
    return small_footage(flight)
