"""Release builder for students that take whole clips: TinyHD S and M.

S gives one map per clip and becomes a stream whose states are the frames before the newest one. M gives a map
per frame and stays in clip form, for blocks of frames. fp32 and fp16 graphs are written; `aerogaze calibrate`
makes int8 ones of the release (docs/reference/export.md, "TinyHD in int8").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames, sample_evenly
from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.search.fp16_diagnostics import describe_weakest_node
from edge.core.atomic_files import atomic_folder
from edge.metrics.saliency import cc
from edge.release.manifest import save_release
from edge.release.release import GOLDEN_FILE, ClipSpec, Form, Graph, Precision, Release, Verification
from export.graphs.fp16 import float_outputs, to_fp16
from export.graphs.frame_window import WINDOW_PREROLL, to_window_stream, window_states
from export.graphs.onnx_export import SALIENCY, export_onnx
from export.release.builder import is_release_file
from export.release.parity import check_parity
from trainer.models.forms import forms_of
from trainer.models.student import Student

MAX_CLIPS, MAX_CLIPS_OF_MAPS = 16, 8
"""Most clips read, if each gives one map, and if each gives a map per frame. A quarter of them is held out;
nothing is calibrated on the others."""
VERIFIED_CLIPS = 4
"""Clips that graphs are verified on, and golden frames. S runs a whole clip for each frame."""
Maps = NDArray[np.float32]
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class _ReferenceClips:
    """Held-out clips and golden clips, with PyTorch's maps (maps, H, W) of each clip."""

    held_out: Sequence[Frames]
    held_out_maps: Sequence[Maps]
    golden: Sequence[Frames]
    golden_maps: Sequence[Maps]


def max_clips(student: Student) -> int:
    """Return the most clips to read for a student."""
    return MAX_CLIPS if forms_of(student).maps == 1 else MAX_CLIPS_OF_MAPS


def make_clip_release(
    student: Student,
    frames: CalibrationFrames,
    folder: Path,
    on_step: Callable[[str], None] = lambda step: None,
    blur: float = 0.0,
) -> Release:
    """Export a student that takes clips. The folder is written as a whole or not at all.

    Args:
        student: The student.
        frames: Clips to verify on.
        folder: Folder of the release.
        on_step: Called with the name of each step.
        blur: Blur of the maps, see `Release`.

    Raises:
        InputError: The folder cannot be written or holds other files.
        CheckError: A graph differs from PyTorch by more than its tolerance.
    """
    forms = forms_of(student)
    golden_frames = frames.golden[:VERIFIED_CLIPS]
    on_step("PyTorch's maps")
    reference = _compute_reference(
        student,
        sample_evenly(frames.held_out, VERIFIED_CLIPS),
        golden_clips(golden_frames, ClipSpec(forms.window, forms.maps)),
    )
    size = student.settings.preprocessing()
    states = window_states(forms.window, size.height, size.width) if forms.maps == 1 else ()
    feeder = InputFeeder(size, forms.inputs("clip"), SALIENCY, states, clip=forms.window)
    with atomic_folder(folder, is_ours=is_release_file) as path:
        graphs = _write_graphs(student, feeder, reference, path, on_step)
        maps = np.concatenate(reference.golden_maps)[: len(golden_frames)].astype(np.float32)
        np.savez_compressed(path / GOLDEN_FILE, frames=golden_frames, maps=maps)
        release = Release(
            folder=path,
            name=student.name,
            student=vars(student.settings),
            preprocessing=size,
            inputs=feeder.inputs,
            output=SALIENCY,
            delay_frames=student.settings.delay_frames,
            preroll=WINDOW_PREROLL if states else 0,
            states=states,
            graphs=graphs,
            trained=student.trained,
            calibrated=None,
            clip=ClipSpec(forms.window, forms.maps),
            blur=blur,
        )
        save_release(release)
    return release


def _write_graphs(
    student: Student,
    feeder: InputFeeder,
    reference: _ReferenceClips,
    folder: Path,
    on_step: Callable[[str], None],
) -> tuple[Graph, ...]:
    """Write a student's graphs, as a stream if the feeder has states.

    Raises:
        CheckError: A graph differs from PyTorch by more than its tolerance.
    """
    form: Form = "stream" if feeder.states else "clip"
    on_step("graph")
    fp32 = export_onnx(student, "clip", 1)
    if feeder.states:
        fp32 = to_window_stream(fp32, feeder.inputs[0], feeder.states)
    models: dict[Precision, onnx.ModelProto] = {
        "fp32": fp32,
        "fp16": to_fp16(fp32, [*feeder.inputs, *float_outputs(fp32, feeder)]),
    }
    graphs = []
    for precision, model in models.items():
        on_step(f"{form} {precision}")
        verification = _verify_clip_graph(feeder, model, precision, reference)
        file = f"{form}.{precision}.onnx"
        onnx.save(model, folder / file)
        graphs.append(Graph(file, form, precision, "any", 1, verification))
    return tuple(graphs)


def _compute_reference(
    student: Student, held_out: Sequence[Frames], golden: Sequence[Frames]
) -> _ReferenceClips:
    network = forms_of(student).modules["clip"]

    def compute_maps(clips: Sequence[Frames]) -> list[Maps]:
        return [network(torch.from_numpy(_prepare_clip(student, clip)))[0].numpy() for clip in clips]

    with torch.inference_mode():
        return _ReferenceClips(held_out, compute_maps(held_out), golden, compute_maps(golden))


def _verify_clip_graph(
    feeder: InputFeeder, model: onnx.ModelProto, precision: Precision, reference: _ReferenceClips
) -> Verification:
    """Compare a graph's maps with PyTorch's.

    Raises:
        CheckError: The difference exceeds the tolerance.
    """
    session = open_session(model)
    maps, golden_maps = (
        np.concatenate([session.run([feeder.output], feeder(session, clip))[0][0] for clip in clips])
        for clips in (reference.held_out, reference.golden)
    )
    verification = check_parity(
        f"{precision} graph",
        precision,
        maps,
        np.concatenate(reference.held_out_maps),
        partial(describe_weakest_node, model, feeder, reference.held_out),
    )
    expected = np.concatenate(reference.golden_maps)
    return replace(verification, golden_cc=min(cc(a, b) for a, b in zip(golden_maps, expected, strict=True)))


def golden_clips(frames: Frames, clip: ClipSpec) -> list[Frames]:
    """Return the clips whose maps are those of consecutive frames, padded as when a run starts and ends."""
    length = clip.frames
    if clip.maps == 1:
        padded = np.concatenate([frames[:1]] * (length - 1) + [frames])
        return [padded[index : index + length] for index in range(len(frames))]
    blocks = -(-len(frames) // length)
    padded = np.concatenate([frames] + [frames[-1:]] * (blocks * length - len(frames)))
    return [padded[index * length : (index + 1) * length] for index in range(blocks)]


def _prepare_clip(student: Student, clip: Frames) -> Maps:
    """Return a clip (T, H, W, 3) as (1, 3, T, H, W)."""
    prepare = student.settings.preprocessing()
    return np.stack([prepare(frame) for frame in clip], axis=2)
