"""Release builder: exports a student to graphs, verified against PyTorch, with a golden set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.distribution_shift import STATISTICS_FILE, save_statistics
from edge.core.atomic_files import atomic_folder
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.release.manifest import (
    GOLDEN_FILE,
    RELEASE_MANIFEST,
    Form,
    Graph,
    Precision,
    Release,
    TargetEngine,
    save_release,
)
from edge.release.quantization import QUANTIZATION_FILE, save_quantization, trained_ranges
from export.graphs.batch_norm_statistics import batch_norm_statistics
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import CalibrationResult, build_int8_graphs, calibration_document
from export.graphs.int8_search import CalibrationOptions
from export.graphs.onnx_export import SALIENCY, export_onnx
from export.release.parity import OpenedGraph, compute_reference_maps, make_golden_set, verify_graph
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
    writer = _GraphWriter(student, frames, on_step)
    with atomic_folder(folder, is_ours=is_release_file) as path:
        results = {form: _export_form(student, form, frames, options, path, writer) for form in forms}
        save_quantization(
            {form: result.quantization for form, result in results.items()}, path / QUANTIZATION_FILE
        )
        np.savez_compressed(path / GOLDEN_FILE, frames=frames.golden, maps=np.stack(writer.golden.maps))
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


class _GraphWriter:
    """Verifies graphs of a student against PyTorch and saves them."""

    def __init__(self, student: Student, frames: CalibrationFrames, on_step: Callable[[str], None]) -> None:
        self._student, self._windows, self.on_step = student, frames.held_out, on_step
        self.golden = make_golden_set(student, frames)
        self._expected = compute_reference_maps(student, frames.held_out)
        self.graphs: list[Graph] = []

    def add(
        self,
        folder: Path,
        model: onnx.ModelProto,
        form: Form,
        precision: Precision,
        engine: TargetEngine = "any",
    ) -> OpenedGraph:
        self.on_step(f"{form} {precision}" + (f" for {engine}" if engine != "any" else ""))
        opened = OpenedGraph(model, form, self._student, disable_qdq_fusion=engine == "tensorrt")
        verification = verify_graph(opened, precision, engine, self._windows, self._expected, self.golden)
        suffix = "" if engine == "any" else f".{engine}"
        file = f"{form}.{precision}{suffix}.onnx"
        onnx.save(model, folder / file)
        self.graphs.append(Graph(file, form, precision, engine, _batch(form), verification))
        return opened


def _export_form(
    student: Student,
    form: Form,
    frames: CalibrationFrames,
    options: CalibrationOptions,
    folder: Path,
    writer: _GraphWriter,
) -> CalibrationResult:
    """Write the graphs of one form in all precisions."""
    forms = forms_of(student)
    writer.on_step(f"{form} fp32")
    model = export_onnx(student, form, _batch(form))
    fp32 = writer.add(folder, model, form, "fp32")
    statistics = batch_norm_statistics(forms.modules[form], model)
    if statistics and not (folder / STATISTICS_FILE).exists():
        save_statistics(statistics, folder / STATISTICS_FILE)
    writer.add(folder, to_fp16(model, [*forms.inputs(form), SALIENCY]), form, "fp16")
    result = build_int8_graphs(
        model,
        fp32.feeder,
        frames,
        {},
        options,
        lambda step, advance, total: writer.on_step(f"{form} {step}"),
        trained_ranges(student.trained, form),
    )
    for int8 in result.int8:
        if int8.model is not None:
            writer.add(folder, int8.model, form, "int8", int8.engine)
    return result


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
