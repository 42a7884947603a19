"""Parity: how far a graph's maps are from PyTorch's, on real frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from calibration.frames import CalibrationFrames
from edge.errors import CheckError
from edge.frames import Tensor
from edge.metrics import cc, kld, max_error
from edge.release import Engine, Form, Precision, Verified
from edge.states import Carried
from export.graphs import FRAME, SALIENCY, inputs_of
from trainer.models.forms import forms_of
from trainer.models.student import Student

Map = NDArray[np.float32]
Window = NDArray[np.uint8]
"""Consecutive frames (length, height, width, 3), BGR, at the student's size."""

TOLERANCES: dict[Precision, float] = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}
"""fp32: largest absolute difference of maps in [0, 1]. fp16 and int8: 1 - mean CC with fp32's maps."""


def reference_maps(student: Student, windows: Iterable[Window]) -> list[Map]:
    """Return PyTorch's map (H, W) of each window's judged frame: the last, or the one before where
    the student is paired with the next frame.
    """
    forms, prepare = forms_of(student), student.settings.preprocessing()
    maps = []
    with torch.inference_mode():
        for window in windows:
            frames = np.stack([prepare(frame) for frame in window], axis=2)
            maps.append(forms.whole(torch.from_numpy(frames))[0, 0].numpy())
    return maps


class GraphUnderTest:
    """An ONNX graph opened for measuring, with the feeds that each form takes."""

    def __init__(self, model: onnx.ModelProto, form: Form, student: Student, plain: bool) -> None:
        """`plain`: run the operators as they are written.

        ONNX Runtime quantises float16 biases of graphs made for TensorRT by itself, and overflows.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if plain:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._form, self._ahead = form, student.settings.delay_frames > 0
        self._prepare = student.settings.preprocessing()
        states = forms_of(student).states if form == "stream" else ()
        half = {i.name for i in self._session.get_inputs() if i.type == "tensor(float16)"}
        kinds = {s.input: np.float16 if s.input in half else np.float32 for s in states}
        starts = {s.input: np.full(s.shape, s.start, kinds[s.input]) for s in states}
        self._carried: Carried[NDArray[Any]] = Carried(states, starts)

    def feed(self, window: Window) -> dict[str, Tensor]:
        """Return the inputs for a window's judged frame: for a stream, with the states before it."""
        *before, last = [self._prepare(frame) for frame in window]
        if self._form == "pair":
            pair = (before[-1], last) if self._ahead else (last, before[-1])
            return dict(zip(inputs_of("pair"), pair, strict=True))
        carried = self._carried
        carried.reset()
        for frame in before:
            given = self._session.run(carried.outputs, {FRAME: frame, **carried.feed()})
            carried.keep(dict(zip(carried.outputs, given, strict=True)))
        return {FRAME: last, **carried.feed()}

    def map(self, window: Window) -> Map:
        """Return the map (H, W) of a window's judged frame."""
        result: Map = self._session.run([SALIENCY], self.feed(window))[0][0, 0]
        return result


@dataclass(frozen=True)
class GoldenSet:
    """Windows for each of some consecutive frames, a clip's first, with PyTorch's maps of these."""

    windows: Sequence[Window]
    maps: Sequence[Map]


def golden_set(student: Student, frames: CalibrationFrames) -> GoldenSet:
    """Return the footage's first frames with PyTorch's maps, as a clip by itself.

    Before it a stream has its preroll, if any; at its end the last frame follows itself.
    """
    forms, delay = forms_of(student), student.settings.delay_frames
    clip = frames.golden
    padded = np.concatenate([clip[:1]] * forms.preroll + [clip] + [clip[-1:]] * delay)
    ends = range(1 + forms.preroll + delay, len(padded) + 1)
    windows = [padded[max(0, end - forms.window) : end] for end in ends]
    return GoldenSet(windows, reference_maps(student, windows))


def verify(
    graph: GraphUnderTest,
    precision: Precision,
    engine: Engine,
    windows: Iterable[Window],
    expected: Sequence[Map],
    golden: GoldenSet,
) -> Verified:
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
        raise CheckError(
            f"the {precision} graph for {engine} engines is not the student: {what} {off:.2e}, "
            f"expected at most {tolerance:.0e}; nothing was written"
        )
    least = min(cc(graph.map(w), map_) for w, map_ in zip(golden.windows, golden.maps, strict=True))
    return Verified(len(maps), max(errors), likeness, divergence, tolerance, least)
