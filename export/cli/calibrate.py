"""`aerogaze calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.inputs.calibration_frames import CalibrationFrames
from edge.cli.console import print_next_step
from edge.cli.options import FOLDER
from edge.core.atomic_files import PendingFolder, cache_folder
from edge.release.release import Release
from export.cli.target_options import (
    TargetRequest,
    open_target,
    read_footage,
    step_progress,
    target_options,
    tensorrt_warnings,
    warn,
)

if TYPE_CHECKING:
    # These import onnx and torch, which only the work of the command needs.
    from export.graphs.int8 import CalibrationResult
    from export.graphs.int8_search import CalibrationOptions, Int8Result


@click.command(epilog="Example: aerogaze calibrate model.onnx --frames flight.mp4 --out model-int8")
@click.argument("target")
@click.option("--out", type=FOLDER, required=True, help="Write to this new folder.")
@target_options
@click.option(
    "--budget",
    metavar="LIST",
    help="Limits for the loss of int8: cc=0.005, kld=0.005, or both with a comma. If given, the fastest mix "
    "of int8 and float layers within them is searched for. [default: cc=0.005,kld=0.005, with a search only "
    "if not all layers fit]",
)
@click.option("--cache", type=FOLDER, help="Folder that caches histograms.")
@click.option("--dla", hidden=True, help="Without effect: no engine for DLA is built.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate(
    target: str,
    out: Path,
    request: TargetRequest,
    budget: str | None,
    cache: Path | None,
    dla: str | None,
    as_json: bool,
) -> None:
    """Make int8 graphs of TARGET: a release, the name of a shipped one, or an ONNX file.

    Finds ranges on your frames and makes one graph for ONNX Runtime and one for TensorRT. Each is evaluated
    on held-out frames. A graph that loses too much does not ship. Nor does one for ONNX Runtime that is not
    2 % faster than float here; a board measures TensorRT itself.
    """
    from calibration.search.accuracy import AccuracyBudget
    from export.graphs.int8_search import DEFAULT_BUDGET, CalibrationOptions

    options = CalibrationOptions(
        method=request.method,
        budget=AccuracyBudget.parse(budget) if budget is not None else DEFAULT_BUDGET,
        thorough=budget is not None,
        threads=request.threads,
        cache=cache or cache_folder(),
    )
    results, footage = _calibrate(target, out, request, options)
    warn([warning for result in results.values() for warning in result.warnings])
    is_release = "" not in results
    if as_json:
        document = {form: [int8.to_dict() for int8 in result.int8] for form, result in results.items()}
        print(json.dumps({"out": str(out), "int8": document if is_release else document[""]}))
        return
    _print(f"{target} -> {out}", results, footage)
    print(f"wrote {out}")
    if is_release:
        print_next_step(f"aerogaze profile {out}")
    else:
        print_next_step(f"aerogaze build {out} --target local, on the board")


def _calibrate(
    target: str, out: Path, request: TargetRequest, options: CalibrationOptions
) -> tuple[dict[str, CalibrationResult], CalibrationFrames]:
    """Calibrate a release or an ONNX file.

    Returns:
        The result of each form of a release, or that of the file under ""; and the footage.
    """
    from export.release.builder import is_release_file
    from export.release.recalibrate import calibrate_graph, calibrate_release, is_calibration_file

    opened = open_target(target, request)
    # Fails now, not after the work, if the folder cannot be written.
    PendingFolder(out, is_release_file if isinstance(opened, Release) else is_calibration_file).discard()
    if not isinstance(opened, Release):
        warn(tensorrt_warnings(opened.model))
    with step_progress() as (progress, advance):
        footage = read_footage(opened, request, progress)
        if isinstance(opened, Release):
            by_form = calibrate_release(opened, footage, out, options, advance)
            return {str(form): result for form, result in by_form.items()}, footage
        result = calibrate_graph(opened, Path(target).stem, footage, out, options, advance)
        return {"": result}, footage


def _print(title: str, results: dict[str, CalibrationResult], footage: CalibrationFrames) -> None:
    Console().print(_table(title, results))
    evaluated = "held out" if footage.is_disjoint else "the same: too few to hold any out"
    methods = ", ".join(dict.fromkeys(result.method for result in results.values()))
    print(
        f"{methods} ranges from {len(footage.windows)} windows, evaluated on {len(footage.held_out)}, "
        f"{evaluated}"
    )
    for form, result in results.items():
        for int8 in result.int8:
            print(f"{form} {int8.engine}: {int8.search.reason}; {_describe_latency(int8)}".strip())


def _describe_latency(int8: Int8Result) -> str:
    trial = int8.search.best or next((trial for trial in int8.search.trials if trial.float_ms), None)
    float_latency = f", float {trial.float_ms:.3f} ms" if trial and trial.float_ms else ""
    machine = int8.conditions.get("cpu") or int8.conditions.get("name")
    return f"latency {int8.latency_kind} on {machine}{float_latency}"


def _table(title: str, results: dict[str, CalibrationResult]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("int8 for")
    for column in ("layers", "SQNR dB", "CC", "KLD", "ms", "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    for form, result in results.items():
        for int8 in result.int8:
            best, quality = int8.search.best, int8.quality
            layers = max((len(trial.layers) for trial in int8.search.trials), default=0)
            cells: list[Any] = ["none ships", "-", "-", "-", "-", "-"]
            if best is not None and quality is not None:
                cells = [
                    f"{len(best.layers)} of {layers}",
                    f"{quality.sqnr_db:.1f}",
                    f"{quality.cc:.5f}",
                    f"{quality.kld:.0e}",
                    f"{best.latency_ms:.3f}",
                    f"{best.gain:+.0%}",
                ]
            table.add_row(f"{form} {int8.engine}".strip(), *cells)
    return table
