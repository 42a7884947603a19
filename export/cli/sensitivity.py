"""`aerogaze sensitivity`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import onnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibration.inputs import distribution_shift as familiar
from calibration.quantization.qdq_placement import quantisable
from calibration.ranges.activation_ranges import count
from calibration.search.accuracy import Judge
from calibration.search.method_selection import ranges_by, ranked
from calibration.search.sensitivity import Sensitivity, measure
from edge.core.atomic_files import PendingFile, cache_folder, written_file
from edge.release.manifest import Form, Release, TargetEngine
from export.cli.sensitivity_plot import plot as draw
from export.cli.target_options import (
    TargetRequest,
    open_target,
    read_footage,
    step_progress,
    target_options,
    warn,
)
from export.graphs.int8 import QDQ_SCHEMES
from export.release.recalibrate import release_feeding


@click.command(epilog="Example: aerogaze sensitivity skd-64 --frames flight.mp4 --plot layers.png")
@click.argument("target")
@target_options
@click.option(
    "--engine",
    type=click.Choice(list(QDQ_SCHEMES)),
    default="tensorrt",
    show_default=True,
    help="Whose placement of Q/DQ.",
)
@click.option(
    "--form",
    type=click.Choice(["stream", "pair"]),
    default="stream",
    show_default=True,
    help="Of a release.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture: PNG, SVG or PDF.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def sensitivity(
    target: str,
    asked: TargetRequest,
    engine: TargetEngine,
    form: Form,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Say what each layer of TARGET loses in int8: it alone, and all but it.

    TARGET is a release, a shipped one's name, or an ONNX file. Judged on frames held out, against fp32.
    """
    opened = open_target(target, asked)
    if plot:
        PendingFile(plot).discard()  # told now, not after the work
    if isinstance(opened, Release):
        model = onnx.load(opened.path(opened.graph("fp32", form)))
        feeding = release_feeding(opened, form)
        statistics = familiar.load(opened.folder / familiar.STATISTICS) if form == "stream" else {}
    else:
        model, feeding, statistics = opened.model, opened.feeding, opened.statistics
    flavour = QDQ_SCHEMES[engine]
    with step_progress() as (progress, step):
        footage = read_footage(opened, asked, progress)
        step("ranges", 0, len(footage.windows))
        counted = count(model, feeding, footage, cache_folder(), lambda more: step("ranges", more, None))
        by = ranges_by(asked.method, counted)
        used = ranked(by, model, feeding, footage.windows, flavour, engine == "tensorrt")[0]
        ranges = by[used]
        doubt = familiar.doubt(familiar.shift(model, feeding, footage.windows, statistics))
        judge = Judge(model, feeding, footage.held_out)
        step("layers", 0, 2 * len(quantisable(model, flavour)) + 1)
        found = measure(model, ranges, flavour, judge, lambda more: step("layers", more, None))
    warn([*footage.doubts, *([doubt] if doubt else [])])
    if plot:
        with written_file(plot) as path:
            draw(found, path, f"{Path(target).name}, int8 for {engine}")
    if as_json:
        conditions = {"target": target, "engine": engine, "method": used, "frames": footage.source}
        counts = {"windows": len(footage.windows), "held_out": len(footage.held_out), "apart": footage.apart}
        print(json.dumps({**conditions, **counts, **dataclasses.asdict(found)}))
        return
    Console().print(_table(found, f"{target}, int8 for {engine}: each layer alone, and the rest without it"))
    apart = "held out" if footage.apart else "the same: too few to hold any out"
    print(
        f"means over {len(footage.held_out)} frames, {apart}; {used} ranges from "
        f"{len(footage.windows)} windows"
    )
    if plot:
        print(f"wrote {plot}")


def _table(found: Sensitivity, title: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("layer", overflow="ellipsis", no_wrap=True)
    for column in ("alone dB", "1-CC", "KLD", "rest dB", "1-CC", "KLD"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in found.layers:
        cells = [
            cell
            for q in (layer.alone, layer.all_but)
            for cell in (f"{q.sqnr_db:.1f}", f"{1 - q.cc:.1e}", f"{q.kld:.1e}")
        ]
        table.add_row(escape(layer.layer), *cells)
    whole = found.whole
    table.add_section()
    table.add_row(
        "all in int8", "", "", "", f"{whole.sqnr_db:.1f}", f"{1 - whole.cc:.1e}", f"{whole.kld:.1e}"
    )
    return table
