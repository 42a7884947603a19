"""Release builder: exports a student to graphs, verified against PyTorch, with a golden set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.distribution_shift import STATISTICS_FILE, save_statistics
from edge.core.atomic_files import atomic_folder
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.release.manifest import RELEASE_MANIFEST, save_release
from edge.release.quantization import QUANTIZATION_FILE, save_quantization, trained_ranges
from edge.release.release import GOLDEN_FILE, Form, Release
from export.graphs.batch_norm_statistics import batch_norm_statistics
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import CalibrationResult, build_int8_graphs, calibration_document
from export.graphs.int8_search import CalibrationOptions
from export.graphs.onnx_export import SALIENCY, export_onnx, with_dynamic_batch
from export.release.graph_writer import GraphKind, GraphWriter
from export.release.parity import compute_reference_maps, make_golden_set, student_feeder
from trainer.models.forms import forms_of
from trainer.models.student import Student

EXPORT_OPTIONS = CalibrationOptions(max_trials=10)
"""Options of an export. Each trial takes some seconds, so it tries fewer graphs than a calibration."""


def make_release(
    student: Student,
    frames: CalibrationFrames,
    folder: Path,
    forms: Sequence[Form] = (),
    options: CalibrationOptions = EXPORT_OPTIONS,
    on_step: Callable[[str], None] = lambda step: None,
    blur: float = 0.0,
) -> Release:
    """Export a student to a release. The folder is written as a whole or not at all.

    The release's `calibrated` describes all int8 graphs, also those that do not ship.

    Args:
        student: The student.
        frames: Footage to calibrate on, and footage held out to verify on.
        folder: Folder of the release.
        forms: Forms to export; empty for all that the student has.
        options: Options of the calibration.
        on_step: Called with the name of each step.
        blur: Blur of the maps, see `Release`.

    Raises:
        InputError: The folder cannot be written or holds other files; the student lacks a form.
        CheckError: A graph differs from PyTorch by more than its tolerance.
    """
    student_forms = forms_of(student)
    forms = tuple(forms) or tuple(student_forms.modules)
    golden = make_golden_set(student, frames)
    writer = GraphWriter(frames.held_out, compute_reference_maps(student, frames.held_out), golden, on_step)
    with atomic_folder(folder, is_ours=is_release_file) as path:
        results: dict[Form, CalibrationResult] = {}
        for form in forms:
            if form == "pair" and "stream" in results and student_forms.aligned:
                _copy_stream_as_pairs(student, path, writer)
                results[form] = results["stream"]
            else:
                results[form] = _export_form(student, form, frames, options, path, writer)
        save_quantization(
            {form: result.quantization for form, result in results.items()}, path / QUANTIZATION_FILE
        )
        np.savez_compressed(path / GOLDEN_FILE, frames=frames.golden, maps=np.stack(golden.maps))
        release = Release(
            folder=path,
            name=student.name,
            student=vars(student.settings),
            preprocessing=student.settings.preprocessing(),
            inputs=student_forms.inputs("pair" if "pair" in student_forms.modules else "stream"),
            output=SALIENCY,
            delay_frames=student.settings.delay_frames,
            preroll=student_forms.preroll,
            states=student_forms.states if "stream" in forms else (),
            graphs=tuple(writer.graphs),
            trained=student.trained,
            blur=blur,
            calibrated={**calibration_document(frames, options, results), "torch": torch.__version__},
        )
        save_release(release)
    return release


def _export_form(
    student: Student,
    form: Form,
    frames: CalibrationFrames,
    options: CalibrationOptions,
    folder: Path,
    writer: GraphWriter,
) -> CalibrationResult:
    """Write the graphs of one form in all precisions."""
    forms, batch, feeder = forms_of(student), _batch(form), student_feeder(student, form)
    writer.on_step(f"{form} fp32")
    model = export_onnx(student, form, batch)
    maps = writer.add(folder, model, feeder, GraphKind(form, "fp32", batch))
    statistics = batch_norm_statistics(forms.modules[form], model)
    if statistics and not (folder / STATISTICS_FILE).exists():
        save_statistics(statistics, folder / STATISTICS_FILE)
    fp16 = to_fp16(model, [*forms.inputs(form), SALIENCY])
    writer.add(folder, fp16, feeder, GraphKind(form, "fp16", batch))
    result = build_int8_graphs(
        model,
        feeder,
        frames,
        {},
        options,
        lambda step, advance, total: writer.on_step(f"{form} {step}"),
        trained_ranges(student.trained, form),
        maps,
    )
    for int8 in result.int8:
        if int8.model is not None:
            writer.add(folder, int8.model, feeder, GraphKind(form, "int8", batch, int8.engine), int8.maps)
    return result


def _copy_stream_as_pairs(student: Student, folder: Path, writer: GraphWriter) -> None:
    """Write the pair form of an aligned student: its graphs are those of the stream form, for any batch."""
    feeder = student_feeder(student, "pair")
    for kind, model, maps in list(writer.written):
        pair_kind = replace(kind, form="pair", batch=_batch("pair"))
        writer.add(folder, with_dynamic_batch(model), feeder, pair_kind, maps)


def _batch(form: Form) -> int | None:
    """Return the batch size of a form's graphs: 1 for a stream, whose states belong to one flight."""
    return 1 if form == "stream" else None


_GRAPH_FILE = re.compile(r"(stream|pair|clip)\.(fp32|fp16|int8)(\.(onnxruntime|tensorrt))?\.onnx")


def is_release_file(entry: Path) -> bool:
    """Return whether an entry of a folder is part of a release that aerogaze made there."""
    names = {
        RELEASE_MANIFEST,
        GOLDEN_FILE,
        STATISTICS_FILE,
        QUANTIZATION_FILE,
        ENGINES_FOLDER,
        "stream.dla.cache",
        "pair.dla.cache",
    }
    is_known = entry.name in names or bool(_GRAPH_FILE.fullmatch(entry.name))
    return is_known and (entry.parent / RELEASE_MANIFEST).is_file()
