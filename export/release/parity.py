"""Parity: comparison of a graph's maps with those of the network that it was made from, on real frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import InputFeeder, Window
from edge.core.errors import CheckError, InputError
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import cc, kld, max_error
from edge.release.release import Form, Precision, Verification
from export.graphs.onnx_export import SALIENCY
from trainer.models.forms import forms_of
from trainer.models.student import Student

Map = NDArray[np.float32]
NOTHING_WRITTEN = "; nothing was written"

TOLERANCES: dict[Precision, float] = {"fp32": 5e-5, "fp16": 1e-4, "int8": 2e-2}
"""fp32: largest absolute difference of maps in [0, 1]; for another range, the part of its peak. A student's
map is exp of logarithms down to about -30, whose rounding in float32 is a few 1e-6 of each sum. fp16, which
rounds after each operator, and int8: 1 - mean CC with the expected maps."""


def compute_reference_maps(student: Student, windows: Iterable[Window]) -> list[Map]:
    """Return PyTorch's map (H, W) of each window's evaluated frame.

    That frame is the last one; the one before where the student is paired with the next frame.
    """
    forms, prepare = forms_of(student), student.settings.preprocessing()
    maps = []
    with torch.inference_mode():
        for window in windows:
            frames = torch.from_numpy(prepare.stack_window(list(window), NOMINAL_FPS))
            maps.append(forms.window_map(frames)[0, 0].numpy())
    return maps


def student_feeder(student: Student, form: Form) -> InputFeeder:
    """Return the feeder for a form of a student."""
    forms, preprocessing = forms_of(student), student.settings.preprocessing()
    return InputFeeder(
        prepare=preprocessing,
        inputs=forms.inputs(form),
        output=SALIENCY,
        states=forms.states if form == "stream" else (),
        looks_ahead=student.settings.delay_frames > 0,
        align_past=preprocessing.align,
        lag=preprocessing.lag_frames(NOMINAL_FPS),
        frame_states=True,  # the states of all students are features of one frame
    )


@dataclass(frozen=True)
class GoldenSet:
    """Windows of consecutive frames from the start of a clip, with the expected map of each."""

    windows: Sequence[Window]
    maps: Sequence[Map]


def make_golden_set(student: Student, frames: CalibrationFrames) -> GoldenSet:
    """Return the golden set of a student: the first frames of the footage as a clip.

    The first frame is repeated before the clip for the preroll of a stream, the last frame after it for the
    delay of a student that looks ahead.
    """
    forms, delay = forms_of(student), student.settings.delay_frames
    windows = golden_windows(frames.golden, forms.preroll, delay, forms.window)
    return GoldenSet(windows, compute_reference_maps(student, windows))


def golden_windows(clip: NDArray[np.uint8], preroll: int, delay: int, length: int) -> list[Window]:
    """Return the frames that the map of each frame of a clip depends on, at most `length` per window."""
    padded = np.concatenate([clip[:1]] * preroll + [clip] + [clip[-1:]] * delay)
    ends = range(1 + preroll + delay, len(padded) + 1)
    return [padded[max(0, end - length) : end] for end in ends]


def check_parity(
    name: str,
    precision: Precision,
    maps: Iterable[Map],
    expected: Iterable[Map],
    describe_weakest: Callable[[], str],
    peak: float = 1.0,
) -> Verification:
    """Compare maps with the expected ones.

    Args:
        name: Name of the graph in errors.
        precision: Precision of the graph, which sets the tolerance.
        maps: Maps of the graph.
        expected: Maps of the network that the graph was made from.
        describe_weakest: Returns a sentence about the weakest node of a float16 graph, for errors.
        peak: Peak of the maps' range. The limit of fp32 is a part of it: 5e-5 is much for a density, whose
            values are about 1e-3.

    Returns:
        The comparison, with a `golden_cc` of 1.

    Raises:
        InputError: The expected maps are empty.
        CheckError: The difference exceeds `TOLERANCES`.
    """
    pairs = list(zip(maps, expected, strict=True))
    if not any(np.any(b) for _, b in pairs):
        raise InputError(
            f"the network's map is empty on these frames (0 everywhere in {len(pairs)} maps); expected a map "
            f"to compare the {name} with: give other footage, or train the network further"
        )
    largest_error = max(max_error(a, b) for a, b in pairs)
    mean_cc = float(np.mean([cc(a, b) for a, b in pairs]))
    mean_kld = float(np.mean([kld(a, b) for a, b in pairs]))
    tolerance = TOLERANCES[precision] * (peak if precision == "fp32" else 1)
    difference = largest_error if precision == "fp32" else 1 - mean_cc
    if not difference <= tolerance:  # also true for NaN
        measure = "largest difference" if precision == "fp32" else "1 - CC"
        weakest = f" ({describe_weakest()})" if precision == "fp16" else ""
        raise CheckError(
            f"the {name} does not reproduce the network: {measure} {difference:.2e}, "
            f"expected at most {tolerance:.0e}{weakest}{NOTHING_WRITTEN}"
        )
    return Verification(
        frames=len(pairs),
        max_error=largest_error,
        mean_cc=mean_cc,
        mean_kld=mean_kld,
        tolerance=tolerance,
        golden_cc=1.0,
    )
