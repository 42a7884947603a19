"""Parity: how far a graph's maps are from PyTorch's, on real frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames, Windows
from calibration.inputs.graph_inputs import Feeding, Window, open_session
from calibration.search.fp16_diagnostics import weakest
from edge.core.errors import CheckError
from edge.metrics.saliency import cc, kld, max_error
from edge.release.manifest import Form, Precision, TargetEngine, Verification
from export.graphs.onnx_export import SALIENCY
from trainer.models.forms import forms_of
from trainer.models.student import Student

Map = NDArray[np.float32]

TOLERANCES: dict[Precision, float] = {"fp32": 5e-5, "fp16": 1e-4, "int8": 2e-2}
"""fp32: largest absolute difference of maps in [0, 1]; a map is exp of logarithms down to -30 or so, whose
rounding in float32 is a few 1e-6 of each sum. fp16, rounded after each operator, and int8: 1 - mean CC
with fp32's maps."""


def compute_reference_maps(student: Student, windows: Iterable[Window]) -> list[Map]:
    """Return PyTorch's map (H, W) of each window's judged frame: the last, or the one before where
    the student is paired with the next frame.
    """
    forms, prepare = forms_of(student), student.settings.preprocessing()
    maps = []
    with torch.inference_mode():
        for window in windows:
            frames = torch.from_numpy(prepare.window(list(window)))
            maps.append(forms.whole(frames)[0, 0].numpy())
    return maps


class OpenedGraph:
    """An ONNX graph opened for measuring."""

    def __init__(self, model: onnx.ModelProto, form: Form, student: Student, plain: bool) -> None:
        """`plain`: run the operators as they are written.

        ONNX Runtime quantises float16 biases of graphs made for TensorRT by itself, and overflows.
        """
        self._model, self._plain = model, plain
        self._session = open_session(model, plain=plain)
        self.feeding = student_feeding(student, form)

    def map(self, window: Window) -> Map:
        """Return the map (H, W) of a window's judged frame."""
        return self.feeding.result(self._session, window)

    def weakest(self, windows: Iterable[Window]) -> str:
        """Say which node bears float16 least."""
        return weakest(self._model, self.feeding, windows, self._plain)


def student_feeding(student: Student, form: Form) -> Feeding:
    """Return how a form of a student is fed."""
    return Feeding(
        student.settings.preprocessing(),
        forms_of(student).inputs(form),
        SALIENCY,
        forms_of(student).states if form == "stream" else (),
        student.settings.delay_frames > 0,
        student.settings.preprocessing().beside,
    )


@dataclass(frozen=True)
class GoldenSet:
    """Windows for each of some consecutive frames, a clip's first, with PyTorch's maps of these."""

    windows: Sequence[Window]
    maps: Sequence[Map]


def make_golden_set(student: Student, frames: CalibrationFrames) -> GoldenSet:
    """Return the footage's first frames with PyTorch's maps, as a clip by itself.

    Before it a stream has its preroll, if any; at its end the last frame follows itself.
    """
    forms, delay = forms_of(student), student.settings.delay_frames
    windows = golden_windows(frames.golden, forms.preroll, delay, forms.window)
    return GoldenSet(windows, compute_reference_maps(student, windows))


def golden_windows(clip: NDArray[np.uint8], preroll: int, delay: int, length: int) -> list[Window]:
    """Return the window, of `length` frames at most, on which the map of each frame of a clip depends."""
    padded = np.concatenate([clip[:1]] * preroll + [clip] + [clip[-1:]] * delay)
    ends = range(1 + preroll + delay, len(padded) + 1)
    return [padded[max(0, end - length) : end] for end in ends]


def verify_graph(
    graph: OpenedGraph,
    precision: Precision,
    engine: TargetEngine,
    windows: Windows,
    expected: Sequence[Map],
    golden: GoldenSet,
) -> Verification:
    """Compare a graph's maps with the expected ones, and note how like the golden maps it gets.

    Raises:
        CheckError: the graph is further off than `TOLERANCES` allows.
    """
    maps = [graph.map(window) for window in windows]
    errors = [max_error(a, b) for a, b in zip(maps, expected, strict=True)]
    likeness = float(np.mean([cc(a, b) for a, b in zip(maps, expected, strict=True)]))
    divergence = float(np.mean([kld(a, b) for a, b in zip(maps, expected, strict=True)]))
    tolerance = TOLERANCES[precision]
    off = max(errors) if precision == "fp32" else 1 - likeness
    if not off <= tolerance:
        what = "largest difference" if precision == "fp32" else "1 - CC"
        where = f" ({graph.weakest(windows)})" if precision == "fp16" else ""
        raise CheckError(
            f"the {precision} graph for {engine} engines is not the student: {what} {off:.2e}, "
            f"expected at most {tolerance:.0e}{where}; nothing was written"
        )
    least = min(cc(graph.map(w), map_) for w, map_ in zip(golden.windows, golden.maps, strict=True))
    return Verification(len(maps), max(errors), likeness, divergence, tolerance, least)
