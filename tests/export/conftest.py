"""Fixtures of the export tests: untrained students, their releases, footage, and latencies from no clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.search.accuracy import AccuracyBudget
from export.cli import export_release
from export.graphs import int8_search
from export.release.builder import EXPORT_OPTIONS, make_release
from tests.support.exporting import FAKE_TIMING, FakeTimer, random_student, small_footage
from tests.support.made_once import MadeOnce
from trainer.models.student import Student, as_skd


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


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(pair, marks=pytest.mark.xdist_group(f"student-{pair}")) for pair in ("previous", "next")
    ],
)
def student(request: pytest.FixtureRequest) -> Student:
    """An untrained student at R = 32, paired either way, which one worker tests; no test changes it."""
    return random_student(32, request.param)


@pytest.fixture
def footage(flight: np.ndarray) -> CalibrationFrames:
    """Frame pairs at R = 32: eight to calibrate on, two held out."""
    return small_footage(flight)


@pytest.fixture
def released(student: Student, footage: CalibrationFrames, made_once: MadeOnce) -> Path:
    """The release of the student, calibrated on the footage; no test changes it."""
    return made_once(
        f"release-{student.name}-{as_skd(student)[0].pair}",
        lambda folder: make_release(student, footage, folder / "r", options=FAKE_TIMING),
    ) / "r"  # fmt: skip
