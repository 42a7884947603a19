"""`aerogaze compare`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.cli.console import progress_bar
from edge.cli.options import FILE, range_option
from edge.core.atomic_files import PendingFile
from edge.core.errors import CheckError, InputError
from edge.core.frames import find_damage
from edge.release.release import FORMS, Form, Release
from edge.sources.factory import open_source
from edge.sources.public_name import public_name
from export.cli.target_options import input_options, warn
from export.compare.input_request import InputRequest

if TYPE_CHECKING:
    # These import onnx and polygraphy, which only the work of the command needs.
    from export.compare.compare import Comparison, TensorDifference
    from export.compare.graph_input_spec import GraphInputSpec
    from export.compare.graph_operand import GraphOperand

DEFAULT_FRAMES = 100
COLUMNS = ("max", "mean", "SQNR", "CC", "least CC", "KLD")


@dataclass(frozen=True)
class _Operands:
    """The two graphs with the specifications of their inputs."""

    a: GraphOperand
    b: GraphOperand
    a_input: Release | GraphInputSpec
    b_input: Release | GraphInputSpec

    @property
    def input_specs(self) -> list[GraphInputSpec]:
        """Return the inputs of the graphs that belong to no release."""
        return [spec for spec in (self.a_input, self.b_input) if not isinstance(spec, Release)]


@click.command(epilog="Example: aerogaze compare skd-64:fp32 skd-64:int8 --frames flight.mp4")
@click.argument("a")
@click.argument("b")
@range_option
@click.option(
    "--frames",
    metavar="SOURCE",
    required=True,
    help="Footage: a video, a folder of images, or synthetic:SEED.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1),
    metavar="N",
    default=DEFAULT_FRAMES,
    show_default=True,
    help="Compare only this many first frames.",
)
@click.option("--form", type=click.Choice(FORMS), help="Form of releases (default: stream, if available).")
@input_options
@click.option("--layers", is_flag=True, help="Also compare each layer that both graphs have.")
@click.option(
    "--diverged",
    metavar="DB",
    type=float,
    default=20.0,
    show_default=True,
    help="SQNR in dB below which a layer counts as diverging.",
)
@click.option("--picture", type=FILE, help="Write the worst frame's maps as PNG.")
@click.option(
    "--max-error",
    metavar="ERROR",
    type=float,
    help="Exit with code 1 if any value of the maps differs by more.",
)
@click.option(
    "--min-cc", metavar="CC", type=float, help="Exit with code 1 if the mean CC of the maps is lower."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def compare(
    a: str,
    b: str,
    frames: str,
    max_frames: int,
    form: Form | None,
    request: InputRequest,
    layers: bool,
    diverged: float,
    picture: Path | None,
    max_error: float | None,
    min_cc: float | None,
    as_json: bool,
) -> None:
    """Run A and B on the same frames and compare their maps.

    Each is RELEASE:PRECISION or a .onnx file. Append @tensorrt, @rtx or @local to select what runs it
    (default: @onnxruntime). B is compared with A as the reference.
    """
    if picture:
        if picture.suffix.lower() != ".png":
            raise InputError(f"cannot write {picture}: expected a name ending in .png")
        PendingFile(picture).discard()  # fails now, not after the work, if the file cannot be written
    from export.compare.graph_operand import GraphOperand

    operands = _resolve_inputs(GraphOperand.parse(a, form), GraphOperand.parse(b, form), request)
    comparison = _run(operands, frames, max_frames, layers)
    document = _to_dict(operands, frames, comparison, diverged)
    if picture:
        # Matplotlib is slow to import, and few comparisons draw a picture.
        from export.compare.picture import write_picture

        write_picture(comparison.worst, (f"A: {a}", f"B: {b}"), picture)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        _print(comparison, operands, diverged)
        if picture:
            print(f"wrote {picture}")
    _check_gates(comparison, max_error, min_cc)


def _resolve_inputs(a: GraphOperand, b: GraphOperand, request: InputRequest) -> _Operands:
    """Find the input specification of both graphs.

    It is that of the graph's release, the `calibration.json` next to the graph, the other graph's release, or
    what the user requested; in this order.
    """
    from export.compare.graph_input_spec import read_calibrated_spec, spec_from_request
    from export.compare.graph_operand import load_graph

    known = [operand.release or read_calibrated_spec(operand.model) for operand in (a, b)]
    option = request.first_option()
    if option and (all(known) or any(isinstance(spec, Release) for spec in known)):
        raise InputError(
            f"{option} is for ONNX files without an input specification, but a release or a calibration.json "
            f"next to the graph has one: leave {option} out"
        )
    for index, operand in enumerate((a, b)):
        other = known[1 - index]
        if known[index] is None:
            model = load_graph(operand.model)
            if not isinstance(other, Release):
                other = spec_from_request(operand.model, model, request, other)
            known[index] = other
    a_input, b_input = known
    assert a_input
    assert b_input
    return _Operands(a, b, a_input, b_input)


def _run(operands: _Operands, frames: str, max_frames: int, layers: bool) -> Comparison:
    from export.compare.compare import compare_graphs, match_layers
    from export.compare.graph_operand import load_graph
    from export.compare.graph_stepper import open_stepper

    matched = match_layers(load_graph(operands.a.model), load_graph(operands.b.model)) if layers else []
    with ExitStack() as stack:
        source = open_source(frames)
        stack.callback(source.close)
        stack.callback(lambda: warn(find_damage(source)))
        a = open_stepper(operands.a, operands.a_input, [layer.a for layer in matched])
        stack.callback(a.close)
        b = open_stepper(operands.b, operands.b_input, [layer.b for layer in matched])
        stack.callback(b.close)
        progress = stack.enter_context(progress_bar(spinner=True))
        total = min(filter(None, (source.length, max_frames)))
        task = progress.add_task(escape(f"compare {operands.a.text} and {operands.b.text}"), total=total)
        selected = islice(source, max_frames)
        return compare_graphs(a, b, selected, source.fps, matched, lambda: progress.advance(task))


def _to_dict(operands: _Operands, frames: str, comparison: Comparison, diverged: float) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schema": 1,
        "a": operands.a.text,
        "b": operands.b.text,
        "fed": [
            spec.name if isinstance(spec, Release) else spec.document()
            for spec in (operands.a_input, operands.b_input)
        ],
        "source": public_name(frames),
        "frames": comparison.frames,
        "saliency": comparison.saliency,
        "outputs": {name: difference.summary() for name, difference in comparison.outputs.items()},
        "worst_frame": comparison.worst.index,
    }
    if comparison.layers:
        document["layers"] = {name: difference.summary() for name, difference in comparison.layers.items()}
        document["diverged_db"] = diverged
        document["first_diverging"] = comparison.first_diverging(diverged)
    return document


def _print(comparison: Comparison, operands: _Operands, diverged: float) -> None:
    title = f"{operands.b.text} against {operands.a.text}, {comparison.frames} frames"
    console = Console()
    console.print(_table(title, "output", comparison.outputs))
    if comparison.layers:
        first = comparison.first_diverging(diverged)
        console.print(_table("layers, in A's order", "layer", comparison.layers, first))
        if first:
            print(f"first layer below {diverged:g} dB: {first}")
        else:
            print(f"no layer is below {diverged:g} dB")
    print("max, mean: absolute difference; SQNR in dB; CC, KLD: means over frames")
    for spec in dict.fromkeys(map(str, operands.input_specs)):
        print(f"input: {spec}")
    print(f"largest difference: frame {comparison.worst.index}, CC {comparison.worst.cc:.5f}")


def _table(
    title: str, heading: str, differences: dict[str, TensorDifference], marked: str | None = None
) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column(heading, overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, difference in differences.items():
        s = difference.summary()
        cells = [
            _format(s["max_error"], ".1e"),
            _format(s["mean_error"], ".1e"),
            _format(s["sqnr_db"], ".1f"),
            _format(s["cc"], ".5f") if difference.cc else "-",
            _format(s["least_cc"], ".5f") if difference.cc else "-",
            _format(s["kld"], ".1e"),
        ]
        style = "bold" if name == marked else None
        table.add_row(escape(name), *cells, style=style)
    return table


def _format(value: float | None, spec: str) -> str:
    return "NaN" if value is None else format(value, spec)


def _check_gates(comparison: Comparison, max_error: float | None, min_cc: float | None) -> None:
    maps = comparison.outputs[comparison.saliency].summary()
    error, mean_cc = maps["max_error"], maps["cc"]
    if max_error is not None and not (error is not None and error <= max_error):
        raise CheckError(f"the maps differ by {_format(error, '.2e')}; expected at most {max_error:g}")
    if min_cc is not None and not (mean_cc is not None and mean_cc >= min_cc):
        raise CheckError(f"the maps' mean CC is {_format(mean_cc, '.5f')}; expected at least {min_cc:g}")
