"""Making a release: every graph, verified against PyTorch, with its golden set."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.distribution_shift import STATISTICS
from calibration.inputs.distribution_shift import save_release as save_statistics
from edge.core.atomic_files import written_folder
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.release.manifest import (
    GOLDEN_FILE,
    RELEASE_MANIFEST,
    Form,
    Graph,
    Precision,
    Release,
    save_release,
)
from edge.release.quantization import QUANTIZATION_FILE, trained_ranges
from edge.release.quantization import save_release as save_quantisation
from export.graphs import onnx_export as graphs
from export.graphs.batch_norm_statistics import batch_norm_statistics
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import CalibrationOptions, CalibrationResult, build_int8_graphs, calibration_document
from export.release.parity import OpenedGraph, compute_reference_maps, make_golden_set, verify_graph
from trainer.models.forms import forms_of
from trainer.models.student import Student

EXPORT_OPTIONS = CalibrationOptions(tries=10)
"""An export tries no more graphs than this for each engine: they take some seconds."""


def make_release(
    student: Student,
    frames: CalibrationFrames,
    folder: Path,
    forms: Sequence[Form] = (),
    options: CalibrationOptions = EXPORT_OPTIONS,
    on_step: Callable[[str], None] = lambda step: None,
    blur: float = 0.0,
) -> Release:
    """Export a student into `folder`, whole or not at all. `forms`: only these; none: all. `blur`: as of
    `Release`.

    What is said of int8 graphs, of those that do not ship too, is in the release's `calibrated`.

    Raises:
        InputError: the folder cannot be written, or holds other files; the student lacks a form.
        CheckError: a graph is further from PyTorch than its tolerance.
    """
    run = forms_of(student)
    forms = tuple(forms) or tuple(run.modules)
    golden = make_golden_set(student, frames)
    expected = compute_reference_maps(student, frames.held_out)
    made: list[Graph] = []
    found: dict[Form, CalibrationResult] = {}
    with written_folder(folder, ours=is_release_file) as path:
        for form in forms:
            batch = 1 if form == "stream" else None
            kept = [*run.inputs(form), graphs.SALIENCY]

            def add(
                model: onnx.ModelProto,
                precision: Precision,
                engine: Engine = "any",
                form: Form = form,
                batch: int | None = batch,
            ) -> OpenedGraph:
                on_step(f"{form} {precision}" + (f" for {engine}" if engine != "any" else ""))
                tested = OpenedGraph(model, form, student, plain=engine == "tensorrt")
                verified = verify_graph(tested, precision, engine, frames.held_out, expected, golden)
                suffix = "" if engine == "any" else f".{engine}"
                graph = Graph(f"{form}.{precision}{suffix}.onnx", form, precision, engine, batch, verified)
                onnx.save(model, path / graph.file)
                made.append(graph)
                return tested

            on_step(f"{form} fp32")
            model = graphs.export_onnx(student, form, batch)
            fp32 = add(model, "fp32")
            statistics = batch_norm_statistics(run.modules[form], model)
            if statistics and not (path / STATISTICS).exists():
                save_statistics(statistics, path / STATISTICS)
            add(to_fp16(model, kept), "fp16")
            found[form] = build_int8_graphs(
                model,
                fp32.feeding,
                frames,
                {},
                options,
                lambda what, more, total, form=form: on_step(f"{form} {what}"),  # type: ignore[misc]
                trained_ranges(student.trained, form),
            )
            for one in found[form].int8:
                if one.model is not None:
                    add(one.model, "int8", one.engine)
        save_quantisation({form: one.quantisation for form, one in found.items()}, path / QUANTIZATION_FILE)
        np.savez_compressed(path / GOLDEN_FILE, frames=frames.golden, maps=np.stack(golden.maps))
        release = Release(
            folder=path,
            name=student.name,
            student=vars(student.settings),
            preprocessing=student.settings.preprocessing(),
            inputs=run.inputs("pair" if "pair" in run.modules else "stream"),
            output=graphs.SALIENCY,
            delay_frames=student.settings.delay_frames,
            preroll=run.preroll,
            states=run.states if "stream" in forms else (),
            graphs=tuple(made),
            trained=student.trained,
            blur=blur,
            calibrated={**calibration_document(frames, options, found), "torch": torch.__version__},
        )
        save_release(release)
    return release


_GRAPH = re.compile(r"(stream|pair|clip)\.(fp32|fp16|int8)(\.(onnxruntime|tensorrt))?\.onnx")


def is_release_file(entry: Path) -> bool:
    """Say whether an entry of a folder is part of a release that we made there."""
    known = {
        RELEASE_MANIFEST,
        GOLDEN_FILE,
        STATISTICS,
        QUANTIZATION_FILE,
        ENGINES_FOLDER,
        "stream.dla.cache",
        "pair.dla.cache",
    }
    named = entry.name in known or bool(_GRAPH.fullmatch(entry.name))
    return named and (entry.parent / RELEASE_MANIFEST).is_file()
