"""`aerogaze sensitivity`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.inputs.calibration_frames import CalibrationFrames
from edge.cli.options import FILE
from edge.core.atomic_files import PendingFile, atomic_file, cache_folder
from edge.release.release import FORMS, Form, Release, TargetEngine
from export.cli.target_options import (
    TargetRequest,
    open_target,
    read_footage,
    step_progress,
    target_options,
    warn,
)

if TYPE_CHECKING:
    # These import onnx and torch, which only the work of the command needs.
    import onnx

    from calibration.inputs.distribution_shift import ChannelStatistics
    from calibration.inputs.graph_inputs import InputFeeder
    from calibration.inputs.onnx_import import ImportedGraph
    from calibration.search.sensitivity import Sensitivity


@click.command(epilog="Example: aerogaze sensitivity skd-64 --frames flight.mp4 --plot layers.png")
@click.argument("target")
@target_options
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    default="tensorrt",
    show_default=True,
    help="Place Q/DQ for this engine.",
)
@click.option(
    "--form",
    type=click.Choice(FORMS),
    help="Form of a release's graph (default: the one that flies).",
)
@click.option("--plot", type=FILE, help="Write a plot: PNG, SVG or PDF.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sensitivity(
    target: str,
    request: TargetRequest,
    engine: TargetEngine,
    form: Form | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure what each layer of TARGET loses in int8: with only it in int8, and with all others in int8.

    TARGET is a release, the name of a shipped one, or an ONNX file. The loss is measured on held-out frames,
    against fp32.
    """
    opened = open_target(target, request)
    if plot:
        PendingFile(plot).discard()  # fails now, not after the work, if the file cannot be written
    result, method, footage = _measure(opened, request, engine, form)
    if plot:
        from export.cli.sensitivity_plot import plot_sensitivity

        with atomic_file(plot) as path:
            plot_sensitivity(result, path, f"{Path(target).name}, int8 for {engine}")
    if as_json:
        conditions = {"target": target, "engine": engine, "method": method, "frames": footage.source}
        print(json.dumps({**conditions, **_count(footage), **dataclasses.asdict(result)}))
        return
    title = f"{target}, int8 for {engine}: only this layer in int8, and all but this layer"
    Console().print(_table(result, title))
    evaluated = "held out" if footage.is_disjoint else "the same: too few to hold any out"
    unit = "clip" if isinstance(opened, Release) and _form(opened, form) == "clip" else "frame"
    count = len(footage.held_out)
    print(
        f"means over {count} {unit}{'s' * (count != 1)}, {evaluated}; {method} ranges from "
        f"{len(footage.windows)} windows"
    )
    if plot:
        print(f"wrote {plot}")


def _measure(
    target: Release | ImportedGraph, request: TargetRequest, engine: TargetEngine, form: Form | None
) -> tuple[Sensitivity, str, CalibrationFrames]:
    """Return the sensitivity of a target's layers, the method of the ranges, and the footage used."""
    from calibration.inputs.distribution_shift import measure_shift, shift_warning
    from calibration.quantization.qdq_placement import quantizable_layers
    from calibration.ranges.activation_ranges import count_histograms
    from calibration.search.accuracy import AccuracyEvaluator
    from calibration.search.method_selection import ranges_by_method, rank_methods
    from calibration.search.sensitivity import measure_sensitivity
    from export.graphs.int8_search import QDQ_SCHEMES

    model, feeder, statistics = _load_graph(target, form)
    scheme = QDQ_SCHEMES[engine]
    with step_progress() as (progress, advance):
        footage = read_footage(target, request, progress)
        advance("ranges", 0, len(footage.windows))
        histograms = count_histograms(
            model, feeder, footage, cache_folder(), lambda windows: advance("ranges", windows, None)
        )
        ranges = ranges_by_method(request.method, histograms)
        disable_qdq_fusion = engine == "tensorrt"
        method = rank_methods(ranges, model, feeder, footage.windows, scheme, disable_qdq_fusion)[0]
        warning = shift_warning(measure_shift(model, feeder, footage.windows, statistics))
        # All held-out windows, or fewer of a costly graph: it runs on each of them twice per layer.
        evaluator = AccuracyEvaluator.on_subset(model, feeder, footage.held_out, len(footage.held_out))
        advance("layers", 0, 2 * len(quantizable_layers(model, scheme)) + 1)
        result = measure_sensitivity(
            model,
            ranges[method],
            scheme,
            evaluator,
            lambda graphs: advance("layers", graphs, None),
            disable_qdq_fusion,
        )
    warn([*footage.warnings, *([warning] if warning else [])])
    return result, method, dataclasses.replace(footage, held_out=evaluator.windows)


def _load_graph(
    target: Release | ImportedGraph, form: Form | None
) -> tuple[onnx.ModelProto, InputFeeder, ChannelStatistics]:
    """Return the fp32 graph of a target, its feeder, and the statistics of its training data."""
    import onnx

    from calibration.inputs.distribution_shift import STATISTICS_FILE, load_statistics
    from export.release.recalibrate import release_feeder

    if not isinstance(target, Release):
        return target.model, target.feeder, target.statistics
    form = _form(target, form)
    model = onnx.load(target.path(target.graph("fp32", form)))
    statistics = load_statistics(target.folder / STATISTICS_FILE) if form == "stream" else {}
    return model, release_feeder(target, form), statistics


def _form(release: Release, form: Form | None) -> Form:
    """Return the form whose graph is measured: the one asked for, or the one that flies."""
    from edge.inference.saliency_model import runtime_form

    return form or runtime_form(release)


def _count(footage: CalibrationFrames) -> dict[str, object]:
    return {
        "windows": len(footage.windows),
        "held_out": len(footage.held_out),
        "apart": footage.is_disjoint,
    }


def _table(result: Sensitivity, title: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("layer", overflow="ellipsis", no_wrap=True)
    for column in ("alone dB", "1-CC", "KLD", "rest dB", "1-CC", "KLD"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in result.layers:
        cells = [
            cell
            for quality in (layer.alone, layer.all_but)
            for cell in (f"{quality.sqnr_db:.1f}", f"{1 - quality.cc:.1e}", f"{quality.kld:.1e}")
        ]
        table.add_row(escape(layer.layer), *cells)
    whole = result.whole
    table.add_section()
    table.add_row(
        "all in int8", "", "", "", f"{whole.sqnr_db:.1f}", f"{1 - whole.cc:.1e}", f"{whole.kld:.1e}"
    )
    return table
