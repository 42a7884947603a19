"""`aerogaze calibrate`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.inputs.onnx_import import UserGraph
from calibration.quantization.dla_cache import VERSION, cache_text
from calibration.search.accuracy import Budget
from edge.core.atomic_files import PendingFolder, cache_folder
from edge.core.errors import InputError
from edge.inference.tensorrt.api import find_unsupported_node
from edge.release.manifest import Release
from export.cli.target_options import (
    TargetRequest,
    open_target,
    read_footage,
    step_progress,
    target_options,
    warn,
)
from export.graphs.int8 import DEFAULT_BUDGET, CalibrationOptions, CalibrationResult, Int8Result
from export.release.builder import is_release_file
from export.release.recalibrate import calibrate_graph, calibrate_release, is_calibration_file


@click.command(epilog="Example: aerogaze calibrate model.onnx --frames flight.mp4 --out model-int8")
@click.argument("target")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@target_options
@click.option(
    "--budget",
    help="What int8 may lose, as cc=0.005, kld=0.005 or both; given, the fastest mix of int8 and float "
    "layers within it is searched for. [default: cc=0.005,kld=0.005, without a search where all fit]",
)
@click.option("--cache", type=click.Path(path_type=Path), help="A folder for ranges, by content.")
@click.option("--dla", default=VERSION, show_default=True, help="TensorRT version of the DLA cache.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def calibrate(
    target: str,
    out: Path,
    asked: TargetRequest,
    budget: str | None,
    cache: Path | None,
    dla: str,
    as_json: bool,
) -> None:
    """Make the int8 graphs of TARGET: a release, a shipped one's name, or an ONNX file.

    Ranges over your frames; one graph for ONNX Runtime and one for TensorRT, each judged on frames held
    out. What is not 2 % faster than float, or loses too much, does not ship.
    """
    options = CalibrationOptions(
        asked.method,
        Budget.parse(budget) if budget is not None else DEFAULT_BUDGET,
        budget is not None,
        asked.threads,
        cache or cache_folder(),
    )
    cache_text({}, dla)
    opened = open_target(target, asked)
    release = opened if isinstance(opened, Release) else None
    ours = is_calibration_file if release is None else is_release_file
    PendingFolder(out, ours).discard()  # told now, not after the work
    if isinstance(opened, UserGraph):
        warn(_refused(opened))
    with step_progress() as (progress, step):
        footage = read_footage(opened, asked, progress)
        if isinstance(opened, Release):
            found = {
                str(form): made
                for form, made in calibrate_release(opened, footage, out, options, dla, step).items()
            }
        else:
            name = Path(target).stem
            found = {"": calibrate_graph(opened, name, footage, out, options, dla, step)}
    warn([doubt for made in found.values() for doubt in made.doubts])
    if as_json:
        document = {form: [one.document() for one in made.int8] for form, made in found.items()}
        print(json.dumps({"out": str(out), "int8": document if release else document[""]}))
        return
    Console().print(_table(f"{target} -> {out}", found))
    apart = "held out" if footage.apart else "the same: too few to hold any out"
    used = ", ".join(dict.fromkeys(made.method for made in found.values()))
    print(f"{used} ranges from {len(footage.windows)} windows, judged on {len(footage.held_out)}, {apart}")
    for form, made in found.items():
        for one in made.int8:
            print(f"{form} {one.engine}: {one.choice.reason}; latency {one.latency} {_where(one)}".strip())
    print(f"wrote {out}")


def _refused(user: UserGraph) -> list[str]:
    """Return what TensorRT for RTX would not take of a graph; nothing where it is not installed."""
    with suppress(InputError):
        refused = find_unsupported_node(user.model.SerializeToString(), "rtx")
        if refused:
            return [f"TensorRT cannot parse the graph ({refused}): what is made runs on ONNX Runtime alone"]
    return []


def _where(one: Int8Result) -> str:
    best = one.choice.best or next((tried for tried in one.choice.tried if tried.float_ms), None)
    base = f", float {best.float_ms:.3f} ms" if best and best.float_ms else ""
    return f"on {one.conditions.get('cpu') or one.conditions.get('name')}{base}"


def _table(title: str, found: dict[str, CalibrationResult]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("int8 for")
    for column in ("layers", "SQNR dB", "CC", "KLD", "ms", "gain"):
        table.add_column(column, justify="right", no_wrap=True)
    for form, made in found.items():
        for one in made.int8:
            best, quality = one.choice.best, one.quality
            named = f"{form} {one.engine}".strip()
            most = max((len(tried.layers) for tried in one.choice.tried), default=0)
            cells: list[Any] = ["none ships", "-", "-", "-", "-", "-"]
            if best is not None and quality is not None:
                cells = [
                    f"{len(best.layers)} of {most}",
                    f"{quality.sqnr_db:.1f}",
                    f"{quality.cc:.5f}",
                    f"{quality.kld:.0e}",
                    f"{best.latency_ms:.3f}",
                    f"{best.gain:+.0%}",
                ]
            table.add_row(named, *cells)
    return table
