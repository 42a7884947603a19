"""`aerogaze compare`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.cli.console import progress_bar
from edge.core.atomic_files import PendingFile
from edge.core.errors import CheckError, InputError
from edge.release.manifest import FORMS, Form, Release
from edge.sources.factory import open_source
from export.cli.target_options import input_options
from export.compare.compare import Comparison, Tally, compare_sides, matched_layers
from export.compare.graph_input_spec import Fed, as_asked, as_calibrated
from export.compare.graph_stepper import Side, Spec, read_graph
from export.compare.input_request import InputRequest

MOST = 100
Pair = tuple[Release | Fed, Release | Fed]
COLUMNS = ("max", "mean", "SQNR", "CC", "least CC", "KLD")


@click.command(epilog="Example: aerogaze compare skd-64:fp32 skd-64:int8 --frames flight.mp4")
@click.argument("a")
@click.argument("b")
@click.option("--frames", required=True, help="Footage: a video, a folder of images, or synthetic:SEED.")
@click.option(
    "--max-frames", type=click.IntRange(min=1), default=MOST, show_default=True, help="The first so many."
)
@click.option("--form", type=click.Choice(FORMS), help="Of releases (default: stream, if it has it).")
@input_options
@click.option("--layers", is_flag=True, help="Also every tensor inside that both graphs have.")
@click.option(
    "--diverged", type=float, default=20.0, show_default=True, help="A layer below this SQNR (dB) diverges."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Write the worst frame's maps as PNG.")
@click.option("--max-error", type=float, help="Gate: exit code 1 if the maps differ by more anywhere.")
@click.option("--min-cc", type=float, help="Gate: exit code 1 if the maps' mean CC is less.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def compare(
    a: str,
    b: str,
    frames: str,
    max_frames: int,
    form: Form | None,
    asked: InputRequest,
    layers: bool,
    diverged: float,
    picture: Path | None,
    max_error: float | None,
    min_cc: float | None,
    as_json: bool,
) -> None:
    """Run A and B on the same frames and say how far apart their maps are.

    Each is RELEASE:PRECISION or a .onnx file, and @tensorrt, @rtx or @local after it says what runs it
    (default: @onnxruntime). B is judged against A.
    """
    if picture:
        if picture.suffix.lower() != ".png":
            raise InputError(f"cannot write {picture}: expected a name ending in .png")
        PendingFile(picture).discard()  # told now, not after the running
    specs = Spec.parse(a, form), Spec.parse(b, form)
    known = _known(specs, asked)
    matched = matched_layers(*(read_graph(spec.model) for spec in specs)) if layers else []
    with ExitStack() as opened:
        source = open_source(frames)
        opened.callback(source.close)
        sides = []
        taps = [m.a for m in matched], [m.b for m in matched]
        for spec, one, tapped in zip(specs, known, taps, strict=True):
            sides.append(Side(spec, one, tapped))
            opened.callback(sides[-1].close)
        a_side, b_side = sides
        progress = opened.enter_context(progress_bar(spinner=True))
        total = min(filter(None, (source.length, max_frames)))
        task = progress.add_task(escape(f"compare {a} and {b}"), total=total)
        taken = islice(source, max_frames)
        found = compare_sides(a_side, b_side, taken, source.fps, matched, lambda: progress.advance(task))
    document = _document(specs, known, frames, found, diverged)
    if picture:
        from export.compare.picture import write_picture

        write_picture(found.worst, (f"A: {a}", f"B: {b}"), picture)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        _print(found, specs, known, diverged)
        if picture:
            print(f"wrote {picture}")
    _gates(found, max_error, min_cc)


def _known(specs: tuple[Spec, Spec], asked: InputRequest) -> Pair:
    """Return what tells how each graph is fed: its release, its folder, the other's, or what was asked."""
    told = [spec.release or as_calibrated(spec.model) for spec in specs]
    if asked.said() and (all(told) or any(isinstance(one, Release) for one in told)):
        raise InputError(
            f"{asked.said()} is for ONNX files of which nothing says how they are fed; a release, or the "
            "calibration.json beside a graph, says it itself: leave it out"
        )
    for index, spec in enumerate(specs):
        other = told[1 - index]
        if told[index] is None:
            model = read_graph(spec.model)
            told[index] = other if isinstance(other, Release) else as_asked(spec.model, model, asked, other)
    a, b = told
    assert a
    assert b
    return a, b


def _document(
    specs: tuple[Spec, Spec], known: Pair, frames: str, found: Comparison, diverged: float
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schema": 1,
        "a": specs[0].text,
        "b": specs[1].text,
        "fed": [one.document() if isinstance(one, Fed) else one.name for one in known],
        "source": frames,
        "frames": found.frames,
        "saliency": found.saliency,
        "outputs": {name: tally.summary() for name, tally in found.outputs.items()},
        "worst_frame": found.worst.index,
    }
    if found.layers:
        document["layers"] = {name: tally.summary() for name, tally in found.layers.items()}
        document["diverged_db"] = diverged
        document["first_diverging"] = found.diverging(diverged)
    return document


def _print(found: Comparison, specs: tuple[Spec, Spec], known: Pair, diverged: float) -> None:
    title = f"{specs[1].text} against {specs[0].text}, {found.frames} frames"
    console = Console()
    console.print(_table(title, "output", found.outputs))
    if found.layers:
        console.print(_table("inside, in A's order", "layer", found.layers, found.diverging(diverged)))
        first = found.diverging(diverged)
        said = f"no layer is below {diverged:g} dB"
        print(f"first layer below {diverged:g} dB: {first}" if first else said)
    print("max, mean: absolute difference; SQNR in dB; CC, KLD: means over frames")
    for fed in dict.fromkeys(str(one) for one in known if isinstance(one, Fed)):
        print(f"fed: {fed}")
    print(f"least alike: frame {found.worst.index}, CC {found.worst.cc:.5f}")


def _table(title: str, what: str, tallies: dict[str, Tally], marked: str | None = None) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(what, overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, tally in tallies.items():
        s = tally.summary()
        cells = [
            _text(s["max_error"], ".1e"),
            _text(s["mean_error"], ".1e"),
            _text(s["sqnr_db"], ".1f"),
            _text(s["cc"], ".5f") if tally.cc else "-",
            _text(s["least_cc"], ".5f") if tally.cc else "-",
            _text(s["kld"], ".1e"),
        ]
        style = "bold" if name == marked else None
        table.add_row(escape(name), *cells, style=style)
    return table


def _text(value: float | None, form: str) -> str:
    return "NaN" if value is None else format(value, form)


def _gates(found: Comparison, max_error: float | None, min_cc: float | None) -> None:
    maps = found.outputs[found.saliency].summary()
    error, likeness = maps["max_error"], maps["cc"]
    if max_error is not None and not (error is not None and error <= max_error):
        raise CheckError(f"the maps differ by {_text(error, '.2e')}; the gate is at most {max_error:g}")
    if min_cc is not None and not (likeness is not None and likeness >= min_cc):
        raise CheckError(f"the maps' mean CC is {_text(likeness, '.5f')}; the gate is at least {min_cc:g}")
