"""How long export and calibration take, and how much memory."""

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
from calibration.search.method_selection import BEST, ranges_by_method, rank_methods
from edge.simulation.world import World
from export.graphs import onnx_export as graphs
from export.release.builder import make_release
from export.release.clip_release import MOST, make_clip_release
from export.release.parity import student_feeding
from tests.bench.rows import Row
from tests.support.untrained import settled
from trainer.models.forms import forms_of
from trainer.models.student import StreamingSettings, Student, TinyHDSettings, load_student
from trainer.models.tinyhd import Variant

WINDOWS, EXPORTED = 500, 150


def calibration_rows(folder: Path) -> list[Row]:
    """500 windows for skd-64; an export of each kind of student, in all its forms; the memory of 500 windows
    of 192x256, in a process.
    """
    student = load_student("skd-64")
    footage = made_footage(student, WINDOWS)
    before = time.perf_counter()
    calibrated(student, footage)
    took = time.perf_counter() - before
    code = "from tests.bench.calibration import peak_mb; print(peak_mb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return [
        Row(f"skd-64: ranges of {WINDOWS} windows, best of four methods", took, "s", 60, False),
        *(row for student in exported_students() for row in export_rows(student, folder)),
        Row(f"192x256: ranges of {WINDOWS} windows, peak memory", float(told), "MB", 1000, False),
    ]


def exported_students() -> Iterator[Student]:
    """Yield what ships, and untrained students that do not: 192x256, and whole clips."""
    for name in ("skd-32", "skd-64", "skd-64-motion", "skd-128", "stream"):
        yield load_student(name)
    torch.manual_seed(0)
    streaming, variants = StreamingSettings(192, 256, 1), get_args(Variant)
    yield Student("stream 192x256 rc 1", streaming, streaming.build().eval(), {})
    for variant in variants:
        clips = TinyHDSettings(variant, rc=1)
        network = settled(clips.build(), clips.height, clips.width)
        yield Student(f"tinyhd-{variant.lower()} rc 1", clips, network, {})


def export_rows(student: Student, folder: Path) -> list[Row]:
    """Return the seconds of an export from `EXPORTED` windows, or `MOST` clips; of its float graphs, too,
    where the student is untrained: no int8 graph of it keeps the budget, so all that may be is tried.
    """
    clips = "clip" in forms_of(student).modules
    footage = made_footage(student, MOST if clips else EXPORTED)
    steps: dict[str, float] = {}
    before = time.perf_counter()

    def on_step(what: str) -> None:
        steps.setdefault(what, time.perf_counter() - before)

    (make_clip_release if clips else make_release)(student, footage, folder / student.name, on_step=on_step)
    whole = Row(f"{student.name}: export of all forms", time.perf_counter() - before, "s", 30, False)
    if clips or student.trained:
        return [whole]
    floats = Row(f"{student.name}, untrained: fp32 and fp16", steps["stream ranges"], "s", 30, False)
    return [floats, whole._replace(what=f"{student.name}, untrained: with a search for int8", bound=None)]


def peak_mb() -> float:
    """Return the peak memory of this process after 500 windows of the streaming student's frames."""
    settings = StreamingSettings(192, 256, 4)
    student = Student("stream", settings, settings.build().eval(), {})
    calibrated(student, made_footage(student, WINDOWS))
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def calibrated(student: Student, footage: CalibrationFrames) -> None:
    """Find the student's ranges."""
    model, feeder = graphs.export_onnx(student, "stream", 1), student_feeding(student, "stream")
    rank_methods(
        ranges_by_method(BEST, count_histograms(model, feeder, footage)), model, feeder, footage.windows
    )


@dataclass(frozen=True)
class Lit:
    """Windows of a clip (N, H, W, 3), each brighter or darker: made when they are asked for."""

    clip: NDArray[np.uint8]
    length: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for index in range(self.count):
            start = index % (len(self.clip) - self.length + 1)
            light = 1 + 0.4 * np.sin(index)
            yield np.clip(self.clip[start : start + self.length] * light, 0, 255).astype(np.uint8)


def made_footage(student: Student, windows: int) -> CalibrationFrames:
    """Return windows of a made flight; rendering as many would take longer than what is measured."""
    prepare, length = student.settings.preprocessing(), forms_of(student).window
    world = World(3, 256, 144, 10)
    clip = np.stack([prepare.resize(world.frame(index).image) for index in range(length + 24)])
    return CalibrationFrames(Lit(clip, length, windows), Lit(clip, length, 16), clip[:8], "made")
