"""int8 graphs made anew, for a release or for anybody's graph."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import onnx

from calibration.inputs import distribution_shift as familiar
from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import Feeding, open_session
from calibration.inputs.onnx_import import UserGraph
from calibration.quantization.dla_cache import cache_text
from calibration.search.accuracy import Budget, Judge, Quality
from calibration.search.fp16_diagnostics import overflow, weakest
from edge.core.atomic_files import sha256, writing, written_folder
from edge.core.errors import InputError
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.metrics.saliency import cc, max_error
from edge.release.manifest import GOLDEN_FILE, Form, Graph, Release, Verification, save_release
from edge.release.quantization import QUANTIZATION_FILE, TensorRanges, trained_ranges
from edge.release.quantization import save_release as save_quantisation
from export.graphs.calibrated_folder import CALIBRATION_FILE
from export.graphs.fp16 import to_fp16
from export.graphs.int8 import (
    QDQ_SCHEMES,
    CalibrationOptions,
    CalibrationResult,
    Int8Result,
    Step,
    build_int8_graphs,
    calibration_document,
    describe_calibration,
    float_outputs,
)
from export.release.builder import is_release_file
from export.release.parity import TOLERANCES, golden_windows


def calibrate_graph(
    user: UserGraph,
    name: str,
    frames: CalibrationFrames,
    folder: Path,
    options: CalibrationOptions,
    dla: str,
    on_step: Step = lambda what, more, total: None,
) -> CalibrationResult:
    """Write a user's graph in fp32, fp16 and int8 with all that was found, whole or not at all.

    Raises:
        InputError: the folder cannot be written or holds other files; as `build_int8_graphs`.
    """
    half = to_fp16(user.model, [*user.feeding.inputs, *float_outputs(user.model, user.feeding)])
    judged = Judge(user.model, user.feeding, frames.held_out)(half)
    made = build_int8_graphs(user.model, user.feeding, frames, user.statistics, options, on_step)
    doubt = _unfit(half, judged, made.extremes, user.feeding, frames)
    if doubt is not None:
        made = dataclasses.replace(made, doubts=(*made.doubts, doubt))
    with written_folder(folder, ours=is_calibration_file) as path, writing(folder):
        _save(user.model, path / "fp32.onnx")
        if doubt is None:
            _save(half, path / "fp16.onnx")
        for found in made.int8:
            if found.model is not None:
                _save(found.model, path / f"int8.{found.engine}.onnx")
        (path / "dla.cache").write_text(cache_text(made.ranges, dla))
        document = {
            "schema": 1,
            "name": name,
            "input": dataclasses.asdict(user.image),
            "output": user.feeding.output,
            "calibrated": describe_calibration(frames, options, made.method),
            "doubts": made.doubts,
            "fp16": dataclasses.asdict(judged) if doubt is None else None,
            "int8": [found.document() for found in made.int8],
            "ranges": made.ranges,
            "files": {
                file.name: {"sha256": sha256(file), "size_bytes": file.stat().st_size}
                for file in sorted(path.iterdir())
            },
        }
        (path / CALIBRATION_FILE).write_text(json.dumps(document, indent=1) + "\n")
    return made


def _unfit(
    half: onnx.ModelProto,
    judged: Quality,
    extremes: TensorRanges,
    feeding: Feeding,
    frames: CalibrationFrames,
) -> str | None:
    """Say why a graph in float16 is not written, if it is not: it overflows, or is too far from fp32."""
    found = overflow(half, extremes)
    if found is None and not 1 - judged.cc <= TOLERANCES["fp16"]:
        where = weakest(half, feeding, frames.held_out)
        least = 1 - TOLERANCES["fp16"]
        found = f"CC with fp32 is {judged.cc:.5f}, expected at least {least:.4f}; {where}"
    return f"no fp16.onnx: {found}" if found else None


def is_calibration_file(entry: Path) -> bool:
    """Say whether an entry of a folder is part of what `calibrate_graph` wrote there."""
    graphs = ("fp32.onnx", "fp16.onnx", *(f"int8.{engine}.onnx" for engine in QDQ_SCHEMES))
    return (
        entry.name in {CALIBRATION_FILE, "dla.cache", ENGINES_FOLDER, *graphs}
        and (entry.parent / CALIBRATION_FILE).is_file()
    )


def calibrate_release(
    release: Release,
    frames: CalibrationFrames,
    folder: Path,
    options: CalibrationOptions,
    dla: str,
    on_step: Step = lambda what, more, total: None,
) -> dict[Form, CalibrationResult]:
    """Write a release whose int8 graphs are made anew; its float graphs and golden set stay.

    What int8 loses is told against the release's fp32 graphs, which were held to PyTorch.

    Raises:
        InputError: the folder cannot be written or holds other files; as `build_int8_graphs`.
    """
    found: dict[Form, CalibrationResult] = {}
    graphs = [graph for graph in release.graphs if graph.precision != "int8"]
    statistics = familiar.load(release.folder / familiar.STATISTICS)
    forms = [graph.form for graph in graphs if graph.precision == "fp32"]
    with written_folder(folder, ours=is_release_file) as path, writing(folder):
        for name in (GOLDEN_FILE, familiar.STATISTICS, *(graph.file for graph in graphs)):
            if (release.folder / name).is_file():
                shutil.copyfile(release.folder / name, path / name)
        for form in forms:
            fp32 = next(g for g in graphs if (g.form, g.precision) == (form, "fp32"))
            model = onnx.load(release.path(fp32))
            feeding = release_feeding(release, form)
            made = found[form] = build_int8_graphs(
                model,
                feeding,
                frames,
                statistics if form == forms[0] else {},
                options,
                on_step,
                trained_ranges(release.trained, form),
            )
            (path / f"{form}.dla.cache").write_text(cache_text(made.ranges, dla))
            for one in made.int8:
                if one.model is None or one.quality is None:
                    continue
                file = f"{form}.int8.{one.engine}.onnx"
                _save(one.model, path / file)
                verified = _verified(release, feeding, one, frames, model, options.budget)
                graphs.append(Graph(file, form, "int8", one.engine, fp32.batch, verified))
        save_quantisation({form: one.quantisation for form, one in found.items()}, path / QUANTIZATION_FILE)
        made_anew = dataclasses.replace(
            release,
            folder=path,
            graphs=tuple(graphs),
            calibrated=calibration_document(frames, options, found),
        )
        save_release(made_anew)
    return found


def release_feeding(release: Release, form: Form) -> Feeding:
    """Return how a release's graphs of a form are fed."""
    return Feeding(
        release.preprocessing,
        release.inputs_of(form),
        release.output,
        release.states if form == "stream" else (),
        release.delay_frames > 0,
        release.preprocessing.beside,
    )


def window_length(release: Release) -> int:
    """Return how many frames in a row a map of the release depends on.

    Raises:
        InputError: the release does not say.
    """
    window = (release.calibrated or {}).get("window")
    if not isinstance(window, int) or window < 1:
        raise InputError(
            f"release {release.name} does not say on how many frames a map depends; "
            "expected calibrated.window in release.json: export it again"
        )
    return window


def _verified(
    release: Release,
    feeding: Feeding,
    one: Int8Result,
    frames: CalibrationFrames,
    fp32: onnx.ModelProto,
    budget: Budget,
) -> Verification:
    assert one.model is not None
    assert one.quality is not None
    plain = one.engine == "tensorrt"
    judge = Judge(fp32, feeding, frames.held_out)
    errors = [max_error(a, b) for a, b in zip(judge.maps(one.model, plain), judge.expected, strict=True)]
    clip, expected = release.golden()
    windows = golden_windows(clip, release.preroll, release.delay_frames, window_length(release))
    session = open_session(one.model, plain=plain)
    maps = [feeding.result(session, window) for window in windows]
    least = min(cc(a, b) for a, b in zip(maps, expected, strict=True))
    tolerance = budget.cc if budget.cc is not None else 1.0
    return Verification(len(errors), max(errors), one.quality.cc, one.quality.kld, tolerance, least)


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
