"""Making a release of a student that takes whole clips: TinyHD S and M.

fp32 and fp16. int8 was measured, and is not faster (docs/export.md, "TinyHD in int8"): most of the work is in
grouped 3-D convolutions, for which neither engine has fast int8 kernels (docs/adr/0005-memories.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames, spread_over
from calibration.inputs.graph_inputs import Feed, open_session
from calibration.search.fp16_diagnostics import weakest
from edge.core.atomic_files import written_folder
from edge.core.errors import CheckError
from edge.metrics.saliency import cc, kld, max_error
from edge.release.manifest import GOLDEN_FILE, ClipSpec, Graph, Precision, Release, Verification, save_release
from export.graphs import onnx_export as graphs
from export.graphs.fp16 import to_fp16
from export.release.builder import is_release_file
from export.release.parity import TOLERANCES
from trainer.models.forms import forms_of
from trainer.models.student import Student

MOST = 16
"""Clips read at most: a quarter of them is held out, and there is nothing to calibrate."""
FEW = 4
"""Clips that graphs are held to PyTorch's maps on, and golden frames: S runs a whole clip for each."""
Maps = NDArray[np.float32]
Frames = NDArray[np.uint8]


def make_clip_release(
    student: Student,
    frames: CalibrationFrames,
    folder: Path,
    on_step: Callable[[str], None] = lambda step: None,
    blur: float = 0.0,
) -> Release:
    """Export a student in clip form into `folder`, whole or not at all. `blur`: as of `Release`.

    Raises:
        InputError: the folder cannot be written, or holds other files.
        CheckError: a graph is further from PyTorch than its tolerance.
    """
    forms = forms_of(student)
    first = frames.golden[:FEW]
    golden = _golden_clips(first, forms.window, forms.maps)
    judged = spread_over(frames.held_out, FEW)

    def feed(session: ort.InferenceSession, clip: Frames) -> Feed:
        return {"frame": _prepared(student, clip)}

    on_step("PyTorch's maps")
    network = forms.modules["clip"]
    with torch.inference_mode():
        held, kept = (
            [network(torch.from_numpy(_prepared(student, clip)))[0].numpy() for clip in clips]
            for clips in (judged, golden)
        )
    made = []
    with written_folder(folder, ours=is_release_file) as path:
        model = graphs.export_onnx(student, "clip", 1)
        models: dict[Precision, onnx.ModelProto] = {
            "fp32": model,
            "fp16": to_fp16(model, ["frame", graphs.SALIENCY]),
        }
        for precision, graph in models.items():
            on_step(f"clip {precision}")
            session = open_session(graph)
            found, told = (
                [session.run(None, feed(session, clip))[0][0] for clip in clips] for clips in (judged, golden)
            )
            verified = _verified(
                precision,
                np.concatenate(found),
                np.concatenate(held),
                partial(weakest, graph, feed, judged),
            )
            likeness = min(cc(a, b) for a, b in zip(np.concatenate(told), np.concatenate(kept), strict=True))
            file = f"clip.{precision}.onnx"
            onnx.save(graph, path / file)
            verified = Verification(**{**vars(verified), "golden_cc": likeness})
            made.append(Graph(file, "clip", precision, "any", 1, verified))
        maps = np.concatenate(kept)[: len(first)].astype(np.float32)
        np.savez_compressed(path / GOLDEN_FILE, frames=first, maps=maps)
        release = Release(
            folder=path,
            name=student.name,
            student=vars(student.settings),
            preprocessing=student.settings.preprocessing(),
            inputs=forms_of(student).inputs("clip"),
            output=graphs.SALIENCY,
            delay_frames=student.settings.delay_frames,
            preroll=0,
            states=(),
            graphs=tuple(made),
            trained=student.trained,
            calibrated=None,
            clip=ClipSpec(forms.window, forms.maps),
            blur=blur,
        )
        save_release(release)
    return release


def _golden_clips(clip: Frames, length: int, maps: int) -> list[Frames]:
    """Return the clips whose maps are those of the frames, in the layout of `ClipWindowRunner`."""
    if maps == 1:
        padded = np.concatenate([clip[:1]] * (length - 1) + [clip])
        return [padded[index : index + length] for index in range(len(clip))]
    blocks = -(-len(clip) // length)
    padded = np.concatenate([clip] + [clip[-1:]] * (blocks * length - len(clip)))
    return [padded[index * length : (index + 1) * length] for index in range(blocks)]


def _prepared(student: Student, clip: Frames) -> Maps:
    """Return a clip (T, H, W, 3) as (1, 3, T, H, W)."""
    prepare = student.settings.preprocessing()
    return np.stack([prepare(frame) for frame in clip], axis=2)


def _verified(precision: Precision, maps: Maps, expected: Maps, where: Callable[[], str]) -> Verification:
    pairs = list(zip(maps, expected, strict=True))
    error = max(max_error(a, b) for a, b in pairs)
    likeness = float(np.mean([cc(a, b) for a, b in pairs]))
    tolerance = TOLERANCES[precision]
    off = error if precision == "fp32" else 1 - likeness
    if not off <= tolerance:
        what = "largest difference" if precision == "fp32" else "1 - CC"
        named = f" ({where()})" if precision == "fp16" else ""
        raise CheckError(
            f"the {precision} graph in clip form is not the student: {what} {off:.2e}, "
            f"expected at most {tolerance:.0e}{named}; nothing was written"
        )
    divergence = float(np.mean([kld(a, b) for a, b in pairs]))
    return Verification(len(pairs), error, likeness, divergence, tolerance, 1.0)
