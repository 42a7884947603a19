"""Parity: how far a graph's maps are from PyTorch's, on real frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from calibration.frames import CalibrationFrames
from edge.errors import CheckError
from edge.metrics import cc, kld, max_error
from edge.preprocess import Preprocessing
from edge.release import Engine, Form, Precision, State, Verified
from export.graphs import FRAME, OTHER, SALIENCY, PairForm
from trainer.models.student import Student

Maps = NDArray[np.float32]
Windows = NDArray[np.uint8]

TOLERANCES: dict[Precision, float] = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}
"""fp32: largest absolute difference of maps in [0, 1]. fp16 and int8: 1 - mean CC with fp32's maps."""


def prepared(windows: Windows, preprocessing: Preprocessing) -> list[list[Maps]]:
    """Return each window (length, height, width, 3) as a list of inputs (1, 3, height, width)."""
    return [[preprocessing(frame) for frame in window] for window in windows]


def reference_maps(student: Student, clips: Sequence[Sequence[Maps]]) -> list[Maps]:
    """Return PyTorch's map (H, W) of each window's judged frame: the last, or the one before where
    the student is paired with the next frame.
    """
    module = PairForm(student).eval()
    maps = []
    with torch.inference_mode():
        for clip in clips:
            frame, other = pair(student, clip)
            maps.append(module(torch.from_numpy(frame), torch.from_numpy(other))[0, 0].numpy())
    return maps


def pair(student: Student, clip: Sequence[Maps]) -> tuple[Maps, Maps]:
    """Return the judged frame of a window and its neighbour."""
    before, last = clip[-2:]
    return (before, last) if student.settings.delay_frames else (last, before)


class GraphUnderTest:
    """An ONNX graph opened for measuring, with the feeds that each form takes."""

    def __init__(
        self,
        model: onnx.ModelProto,
        form: Form,
        states: Sequence[State],
        student: Student,
        plain: bool,
    ) -> None:
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
        self._form, self._states, self._student = form, states, student
        kinds = {i.name: i.type for i in self._session.get_inputs()}
        self._kind = {
            s.input: np.float16 if kinds[s.input] == "tensor(float16)" else np.float32
            for s in states
            if form == "stream"
        }

    def feed(self, clip: Sequence[Maps]) -> dict[str, Maps]:
        """Return the inputs for a window's judged frame: for a stream, with the states before it."""
        if self._form == "pair":
            return dict(zip((FRAME, OTHER), pair(self._student, clip), strict=True))
        carried: dict[str, NDArray[Any]] = {
            s.input: np.full(s.shape, s.start, self._kind[s.input]) for s in self._states
        }
        for frame in clip[:-1]:
            values = self._session.run([s.output for s in self._states], {FRAME: frame, **carried})
            carried = {s.input: value for s, value in zip(self._states, values, strict=True)}
        return {FRAME: clip[-1], **carried}

    def map(self, clip: Sequence[Maps]) -> Maps:
        """Return the map (H, W) of a window's judged frame."""
        result: Maps = self._session.run([SALIENCY], self.feed(clip))[0][0, 0]
        return result


@dataclass(frozen=True)
class GoldenSet:
    """Consecutive frames as windows, each ending at (or, with look-ahead, beginning at) its frame."""

    clips: Sequence[Sequence[Maps]]
    maps: Sequence[Maps]


def golden_set(student: Student, frames: CalibrationFrames) -> GoldenSet:
    """Return the footage's first frames with PyTorch's maps; at a clip's end a frame pairs with itself."""
    clip = frames.golden
    if student.settings.delay_frames:
        windows = np.stack([clip, np.concatenate([clip[1:], clip[-1:]])], axis=1)
    else:
        windows = np.stack([np.concatenate([clip[:1], clip[:-1]]), clip], axis=1)
    clips = prepared(windows, student.settings.preprocessing())
    return GoldenSet(clips, reference_maps(student, clips))


def verify(
    graph: GraphUnderTest,
    precision: Precision,
    engine: Engine,
    clips: Sequence[Sequence[Maps]],
    expected: Sequence[Maps],
    golden: GoldenSet,
) -> Verified:
    """Compare a graph's maps with the expected ones, and note how like the golden maps it gets.

    Raises:
        CheckError: the graph is further off than `TOLERANCES` allows.
    """
    maps = [graph.map(clip) for clip in clips]
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
    least = min(cc(graph.map(clip), map_) for clip, map_ in zip(golden.clips, golden.maps, strict=True))
    return Verified(len(maps), max(errors), likeness, divergence, tolerance, least)
