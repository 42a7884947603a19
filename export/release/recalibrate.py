"""Calibration of an existing release or of a user's ONNX graph: new int8 graphs, float graphs unchanged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.distribution_shift import STATISTICS_FILE, ChannelStatistics, load_statistics
from calibration.inputs.graph_inputs import InputFeeder, open_session
from calibration.inputs.onnx_import import ImportedGraph
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, Quality
from calibration.search.fp16_diagnostics import describe_overflow, describe_weakest_node
from edge.core.atomic_files import atomic_folder, sha256, translate_write_errors
from edge.core.errors import CheckError, InputError
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.metrics.saliency import cc
from edge.release.manifest import save_release
from edge.release.quantization import QUANTIZATION_FILE, TensorRanges, save_quantization, trained_ranges
from edge.release.release import GOLDEN_FILE, Form, Graph, Release, Verification
from export.graphs.calibrated_folder import CALIBRATION_FILE, SCHEMA
from export.graphs.fp16 import float_outputs, to_fp16
from export.graphs.int8 import (
    CalibrationResult,
    build_int8_graphs,
    calibration_document,
    describe_calibration,
)
from export.graphs.int8_search import QDQ_SCHEMES, CalibrationOptions, Int8Result, ProgressCallback
from export.release.builder import is_release_file
from export.release.clip_release import golden_clips
from export.release.parity import TOLERANCES, golden_windows


def calibrate_graph(
    imported: ImportedGraph,
    name: str,
    frames: CalibrationFrames,
    folder: Path,
    options: CalibrationOptions,
    on_progress: ProgressCallback = lambda step, advance, total: None,
) -> CalibrationResult:
    """Write a user's graph in fp32, fp16 and int8. The folder is written as a whole or not at all.

    Args:
        imported: The graph.
        name: Name of the graph.
        frames: Footage to calibrate on, and footage held out to evaluate on.
        folder: Folder for the graphs and `calibration.json`.
        options: Options of the calibration.
        on_progress: Called for each unit of work.

    Raises:
        InputError: The folder cannot be written or holds other files; as `build_int8_graphs`.
    """
    model, feeder = imported.model, imported.feeder
    result = build_int8_graphs(model, feeder, frames, imported.statistics, options, on_progress)
    try:
        fp16, quality = _make_fp16(model, result.extremes, feeder, frames)
    except (InputError, CheckError) as error:
        fp16, quality = None, None
        result = dataclasses.replace(result, warnings=(*result.warnings, f"no fp16.onnx: {error}"))
    with atomic_folder(folder, is_ours=is_calibration_file) as path, translate_write_errors(folder):
        _save(model, path / "fp32.onnx")
        if fp16 is not None:
            _save(fp16, path / "fp16.onnx")
        for int8 in result.int8:
            if int8.model is not None:
                _save(int8.model, path / f"int8.{int8.engine}.onnx")
        document = {
            "schema": SCHEMA,
            "name": name,
            "input": dataclasses.asdict(imported.image),
            "output": feeder.output,
            "calibrated": describe_calibration(frames, options, result.method),
            "doubts": result.warnings,
            "fp16": dataclasses.asdict(quality) if quality is not None else None,
            "int8": [int8.to_dict() for int8 in result.int8],
            "ranges": result.ranges,
            "files": {
                file.name: {"sha256": sha256(file), "size_bytes": file.stat().st_size}
                for file in sorted(path.iterdir())
            },
        }
        (path / CALIBRATION_FILE).write_text(json.dumps(document, indent=1) + "\n")
    return result


def _make_fp16(
    model: onnx.ModelProto, extremes: TensorRanges, feeder: InputFeeder, frames: CalibrationFrames
) -> tuple[onnx.ModelProto, Quality]:
    """Return a graph in float16 and the quality of its maps.

    Raises:
        InputError: It cannot be converted.
        CheckError: It overflows, or its maps differ too much.
    """
    fp16 = to_fp16(model, [*feeder.inputs, *float_outputs(model, feeder)])
    overflow = describe_overflow(fp16, extremes)
    if overflow is not None:
        raise CheckError(overflow)
    quality = AccuracyEvaluator(model, feeder, frames.held_out)(fp16)
    if not 1 - quality.cc <= TOLERANCES["fp16"]:
        weakest = describe_weakest_node(fp16, feeder, frames.held_out)
        min_cc = 1 - TOLERANCES["fp16"]
        raise CheckError(f"CC with fp32 is {quality.cc:.5f}, expected at least {min_cc:.4f}; {weakest}")
    return fp16, quality


def is_calibration_file(entry: Path) -> bool:
    """Return whether an entry of a folder is part of what `calibrate_graph` wrote there."""
    graphs = ("fp32.onnx", "fp16.onnx", *(f"int8.{engine}.onnx" for engine in QDQ_SCHEMES))
    # Older versions wrote a calibration cache for DLA.
    names = {CALIBRATION_FILE, "dla.cache", ENGINES_FOLDER, *graphs}
    return entry.name in names and (entry.parent / CALIBRATION_FILE).is_file()


def calibrate_release(
    release: Release,
    frames: CalibrationFrames,
    folder: Path,
    options: CalibrationOptions,
    on_progress: ProgressCallback = lambda step, advance, total: None,
) -> dict[Form, CalibrationResult]:
    """Write a release with new int8 graphs. Its float graphs and its golden set are copied.

    The loss of int8 is measured against the release's fp32 graphs, which were verified against PyTorch.

    Args:
        release: The release.
        frames: Footage to calibrate on, and footage held out to evaluate on.
        folder: Folder of the new release. It is written as a whole or not at all.
        options: Options of the calibration.
        on_progress: Called for each unit of work.

    Raises:
        InputError: The folder cannot be written or holds other files; as `build_int8_graphs`.
    """
    results: dict[Form, CalibrationResult] = {}
    graphs = [graph for graph in release.graphs if graph.precision != "int8"]
    statistics = load_statistics(release.folder / STATISTICS_FILE)
    fp32_graphs = [graph for graph in graphs if graph.precision == "fp32"]
    with atomic_folder(folder, is_ours=is_release_file) as path, translate_write_errors(folder):
        for name in (GOLDEN_FILE, STATISTICS_FILE, *(graph.file for graph in graphs)):
            if (release.folder / name).is_file():
                shutil.copyfile(release.folder / name, path / name)
        for fp32 in fp32_graphs:
            # The statistics are of the tensors of the first form's graph.
            known_statistics = statistics if fp32 is fp32_graphs[0] else {}
            result, int8_graphs = _calibrate_form(
                release, fp32, frames, path, known_statistics, options, on_progress
            )
            results[fp32.form] = result
            graphs += int8_graphs
        save_quantization(
            {form: result.quantization for form, result in results.items()}, path / QUANTIZATION_FILE
        )
        save_release(
            dataclasses.replace(
                release,
                folder=path,
                graphs=tuple(graphs),
                calibrated=calibration_document(frames, options, results),
            )
        )
    return results


def _calibrate_form(
    release: Release,
    fp32: Graph,
    frames: CalibrationFrames,
    folder: Path,
    statistics: ChannelStatistics,
    options: CalibrationOptions,
    on_progress: ProgressCallback,
) -> tuple[CalibrationResult, list[Graph]]:
    """Write the int8 graphs of one form; return the result and the graphs that ship."""
    form, model = fp32.form, onnx.load(release.path(fp32))
    feeder = release_feeder(release, form)
    fixed_ranges = trained_ranges(release.trained, form)
    result = build_int8_graphs(model, feeder, frames, statistics, options, on_progress, fixed_ranges)
    graphs = []
    for int8 in result.int8:
        if int8.model is None:
            continue
        file = f"{form}.int8.{int8.engine}.onnx"
        _save(int8.model, folder / file)
        verification = _verify_int8(release, feeder, int8, len(frames.held_out), options.budget)
        graphs.append(Graph(file, form, "int8", int8.engine, fp32.batch, verification))
    return result, graphs


def release_feeder(release: Release, form: Form) -> InputFeeder:
    """Return the feeder for a release's graphs of a form."""
    preprocessing = release.preprocessing
    return InputFeeder(
        prepare=preprocessing,
        inputs=release.input_names(form),
        output=release.output,
        states=release.states if form == "stream" else (),
        looks_ahead=release.delay_frames > 0,
        align_past=preprocessing.align,
        lag=preprocessing.lag_frames(NOMINAL_FPS),
        clip=release.clip.frames if release.clip is not None else 1,
        frame_states=release.student.get("kind") in ("skd", "stream"),
    )


def window_length(release: Release) -> int:
    """Return the number of consecutive frames that a map of the release depends on.

    Raises:
        InputError: The release does not state it.
    """
    if release.clip is not None:
        return release.clip.frames
    window = (release.calibrated or {}).get("window")
    if not isinstance(window, int) or window < 1:
        raise InputError(
            f"release {release.name} does not state how many frames a map depends on; "
            "expected calibrated.window in release.json: export it again"
        )
    return window


def _verify_int8(
    release: Release,
    feeder: InputFeeder,
    int8: Int8Result,
    held_out: int,
    budget: AccuracyBudget,
) -> Verification:
    """Return the comparison of an int8 graph with fp32 on so many held-out windows and on the golden set."""
    assert int8.model is not None
    assert int8.quality is not None
    assert int8.max_error is not None
    golden_frames, golden_maps = release.load_golden()
    windows = (
        golden_windows(golden_frames, release.preroll, release.delay_frames, window_length(release))
        if release.clip is None
        else golden_clips(golden_frames, release.clip)
    )
    session = open_session(int8.model, disable_qdq_fusion=int8.engine == "tensorrt")
    height, width = release.map_shape
    int8_maps = np.concatenate([feeder.run(session, window).reshape(-1, height, width) for window in windows])
    return Verification(
        frames=held_out,
        max_error=int8.max_error,
        mean_cc=int8.quality.cc,
        mean_kld=int8.quality.kld,
        tolerance=budget.cc if budget.cc is not None else 1.0,
        # The last clip of a student with a map per frame is filled up: it gives more maps than frames.
        golden_cc=min(cc(a, b) for a, b in zip(int8_maps, golden_maps, strict=False)),
    )


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
