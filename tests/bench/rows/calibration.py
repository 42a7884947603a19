"""Time and memory of export and calibration."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
from export.release.clip_release import make_clip_release, max_clips
from export.release.parity import student_feeder
from tests.bench.measurement.row import Reading, Readings
from tests.support.untrained import with_statistics
from trainer.models.forms import forms_of
from trainer.models.student import StreamingSettings, Student, TinyHDSettings, load_student
from trainer.models.tinyhd import Variant

CALIBRATION_WINDOWS, EXPORT_WINDOWS = 500, 150


SHIPPED = "skd-32", "skd-64", "skd-64-motion", "skd-96-motion", "skd-128-motion", "skd-128", "stream"


def benchmarks() -> Sequence[Readings]:
    """Return the time and memory of a calibration."""
    return Readings("time", 40, _read_time), Readings("memory", 40, _read_memory)


def export_benchmarks() -> Sequence[Readings]:
    """Return the exports of the shipped students, and of untrained ones of the kinds that are not shipped."""
    makers: dict[str, Callable[[], Student]] = {name: partial(load_student, name) for name in SHIPPED}
    makers["stream 192x256 rc 1"] = _make_streaming
    for variant in get_args(Variant):
        makers[f"tinyhd-{variant.lower()} rc 1"] = partial(_make_tinyhd, variant)
    return [Readings(name, 60, partial(_read_export, make)) for name, make in makers.items()]


def _read_time(_folder: Path) -> Iterator[Reading]:
    student = load_student("skd-64")
    frames = synthetic_frames(student, CALIBRATION_WINDOWS)
    start_s = time.perf_counter()
    calibrate(student, frames)
    label = f"skd-64: ranges of {CALIBRATION_WINDOWS} windows, best of four methods"
    yield Reading(label, time.perf_counter() - start_s, "s", 60, at_least=False)


def _read_memory(_folder: Path) -> Iterator[Reading]:
    code = "from tests.bench.rows.calibration import peak_mb; print(peak_mb())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    label = f"192x256: ranges of {CALIBRATION_WINDOWS} windows, peak memory"
    yield Reading(label, float(process.stdout), "MB", 1000, at_least=False, spread=0.02)


def _make_streaming() -> Student:
    torch.manual_seed(0)
    settings = StreamingSettings(192, 256, 1)
    return Student("stream 192x256 rc 1", settings, settings.build().eval(), {})


def _make_tinyhd(variant: Variant) -> Student:
    torch.manual_seed(0)
    settings = TinyHDSettings(variant, rc=1)
    network = with_statistics(settings.build(), settings.height, settings.width)
    return Student(f"tinyhd-{variant.lower()} rc 1", settings, network, {})


def _read_export(make: Callable[[], Student], folder: Path) -> Iterator[Reading]:
    yield from export_rows(make(), folder)


def export_rows(student: Student, folder: Path) -> Iterator[Reading]:
    """Yield the seconds of an export in all forms.

    For an untrained student the time to the float graphs has the bound. No int8 graph of it keeps the
    accuracy budget, so its search tries everything.
    """
    is_clip = "clip" in forms_of(student).modules
    frames = synthetic_frames(student, max_clips(student) if is_clip else EXPORT_WINDOWS)
    step_starts_s: dict[str, float] = {}
    start_s = time.perf_counter()

    def on_step(step: str) -> None:
        step_starts_s.setdefault(step, time.perf_counter() - start_s)

    export = make_clip_release if is_clip else make_release
    export(student, frames, folder / student.name, on_step=on_step)
    seconds = time.perf_counter() - start_s
    if is_clip or student.trained:
        yield Reading(f"{student.name}: export of all forms", seconds, "s", 30, at_least=False)
        return
    float_seconds = step_starts_s["stream ranges"]
    yield Reading(f"{student.name}, untrained: fp32 and fp16", float_seconds, "s", 30, at_least=False)
    yield Reading(f"{student.name}, untrained: with a search for int8", seconds, "s", at_least=False)


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
