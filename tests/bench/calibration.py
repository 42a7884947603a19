"""Time and memory of export and calibration."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.ranges.activation_ranges import count_histograms
from calibration.ranges.histogram import BEST
from calibration.search.method_selection import ranges_by_method, rank_methods
from edge.simulation.world import World
from export.graphs import onnx_export
from export.release.builder import make_release
from export.release.clip_release import MAX_CLIPS, make_clip_release
from export.release.parity import student_feeder
from tests.bench.rows import BenchRow
from tests.support.untrained import with_statistics
from trainer.models.forms import forms_of
from trainer.models.student import StreamingSettings, Student, TinyHDSettings, load_student
from trainer.models.tinyhd import Variant

CALIBRATION_WINDOWS, EXPORT_WINDOWS = 500, 150


def calibration_rows(folder: Path) -> Iterator[BenchRow]:
    """Yield the time of a calibration, the time of each student's export, and the memory of a calibration."""
    student = load_student("skd-64")
    frames = synthetic_frames(student, CALIBRATION_WINDOWS)
    start_s = time.perf_counter()
    calibrate(student, frames)
    seconds = time.perf_counter() - start_s
    label = f"skd-64: ranges of {CALIBRATION_WINDOWS} windows, best of four methods"
    yield BenchRow(label, seconds, "s", 60, at_least=False)
    for exported in exported_students():
        yield from export_rows(exported, folder)
    code = "from tests.bench.calibration import peak_mb; print(peak_mb())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    label = f"192x256: ranges of {CALIBRATION_WINDOWS} windows, peak memory"
    yield BenchRow(label, float(process.stdout), "MB", 1000, at_least=False)


def exported_students() -> Iterator[Student]:
    """Yield the shipped students, and untrained ones of the kinds that are not shipped."""
    for name in ("skd-32", "skd-64", "skd-64-motion", "skd-128", "stream"):
        yield load_student(name)
    torch.manual_seed(0)
    streaming, variants = StreamingSettings(192, 256, 1), get_args(Variant)
    yield Student("stream 192x256 rc 1", streaming, streaming.build().eval(), {})
    for variant in variants:
        settings = TinyHDSettings(variant, rc=1)
        network = with_statistics(settings.build(), settings.height, settings.width)
        yield Student(f"tinyhd-{variant.lower()} rc 1", settings, network, {})


def export_rows(student: Student, folder: Path) -> Iterator[BenchRow]:
    """Yield the seconds of an export in all forms.

    For an untrained student the time to the float graphs has the bound. No int8 graph of it keeps the
    accuracy budget, so its search tries everything.
    """
    is_clip = "clip" in forms_of(student).modules
    frames = synthetic_frames(student, MAX_CLIPS if is_clip else EXPORT_WINDOWS)
    step_starts_s: dict[str, float] = {}
    start_s = time.perf_counter()

    def on_step(step: str) -> None:
        step_starts_s.setdefault(step, time.perf_counter() - start_s)

    export = make_clip_release if is_clip else make_release
    export(student, frames, folder / student.name, on_step=on_step)
    seconds = time.perf_counter() - start_s
    if is_clip or student.trained:
        yield BenchRow(f"{student.name}: export of all forms", seconds, "s", 30, at_least=False)
        return
    float_seconds = step_starts_s["stream ranges"]
    yield BenchRow(f"{student.name}, untrained: fp32 and fp16", float_seconds, "s", 30, at_least=False)
    yield BenchRow(f"{student.name}, untrained: with a search for int8", seconds, "s")


def peak_mb() -> float:
    """Return the peak memory of this process after a calibration of the streaming student."""
    settings = StreamingSettings(192, 256, 4)
    student = Student("stream", settings, settings.build().eval(), {})
    calibrate(student, synthetic_frames(student, CALIBRATION_WINDOWS))
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def calibrate(student: Student, frames: CalibrationFrames) -> None:
    """Find the student's ranges with each method, and rank the methods."""
    model, feeder = onnx_export.export_onnx(student, "stream", 1), student_feeder(student, "stream")
    histograms = count_histograms(model, feeder, frames)
    rank_methods(ranges_by_method(BEST, histograms), model, feeder, frames.windows)


@dataclass(frozen=True)
class BrightnessWindows:
    """Windows of a clip (N, H, W, 3) with varying brightness, computed when they are read."""

    clip: NDArray[np.uint8]
    length: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index in range(self.count):
            start = index % (len(self.clip) - self.length + 1)
            gain = 1 + 0.4 * np.sin(index)
            yield np.clip(self.clip[start : start + self.length] * gain, 0, 255).astype(np.uint8)


def synthetic_frames(student: Student, windows: int) -> CalibrationFrames:
    """Return windows of a synthetic flight; rendering all of them would take longer than the calibration."""
    prepare, length = student.settings.preprocessing(), forms_of(student).window
    world = World(3, 256, 144, 10)
    clip = np.stack([prepare.resize(world.frame(index).image) for index in range(length + 24)])
    held_out = BrightnessWindows(clip, length, 16)
    return CalibrationFrames(BrightnessWindows(clip, length, windows), held_out, clip[:8], "made")
