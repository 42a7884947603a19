"""`aerogaze import`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from calibration.inputs.image_format import COLOURS, Colour
from calibration.ranges.histogram import MethodChoice
from edge.cli.console import print_next_step
from edge.cli.options import FileType, SectionedCommand
from edge.core.atomic_files import PendingFile
from edge.core.errors import InputError
from edge.core.frames import parse_size
from export.cli.target_options import FRAMES_OPTION, METHOD_OPTION, calibration_frames_option

NOT_STATED = "not stated"
"""Licence and source of a model whose user said nothing about them."""
MAX_SIDE = 4096
TINYHD_SIZE = "256x192"
TINYHD_SIDE = 32
DEFAULT_WINDOWS = 100
"""Windows that an import reads by default: half of an export's, because others' networks are often large."""
KINDS = ("tinyhd", "onnx")
NETWORK_LAYOUTS = ("nchw", "nhwc", "ncthw", "ntchw", "nthwc")
PRESETS = ("imagenet", "unit", "symmetric", "raw")
ACTIVATIONS = ("sigmoid", "softmax", "logsoftmax", "none")
_SECTIONS = {
    "Model": ("kind", "out", "name", "licence", "source", "size"),
    "TinyHD": ("d1_last",),
    "ONNX: frames in": ("layout", "window", "states", "colour", "preset", "mean", "std"),
    "ONNX: map out": ("output", "channel", "activation", "map_size"),
    "ONNX: calibration": ("frames", "calibration_frames", "method", "budget"),
}


@click.command(
    name="import",
    cls=SectionedCommand,
    sections=_SECTIONS,
    epilog="Example: aerogaze import model.onnx --frames flight.mp4 --preset imagenet --out release",
)
@click.argument("model", type=FileType())
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    help="What the file is: tinyhd, a checkpoint of TinyHD's authors, or onnx. [default: onnx for .onnx]",
)
@click.option(
    "--out",
    type=FileType(),
    required=True,
    help="Write the student to this .safetensors file, or the release to this new folder.",
)
@click.option("--name", metavar="NAME", help="Name of the release. [default: that of the file]")
@click.option(
    "--licence", metavar="NAME", default=NOT_STATED, show_default=True, help="Licence, for the model's card."
)
@click.option(
    "--source", metavar="URL", default=NOT_STATED, show_default=True, help="Origin, for the model's card."
)
@click.option(
    "--size",
    metavar="WxH",
    help=f"Size of the frames. [default: {TINYHD_SIZE} for TinyHD, that of the graph for ONNX]",
)
@click.option(
    "--d1-last", is_flag=True, help="The checkpoint mixes the maps of D1 last, as d1d2d3_M_lt does."
)
@click.option("--layout", type=click.Choice(NETWORK_LAYOUTS), help="Order of the axes of the input.")
@click.option(
    "--window", type=click.IntRange(min=1), metavar="T", help="Consecutive frames that the input takes."
)
@click.option(
    "--state",
    "states",
    metavar="INPUT=OUTPUT",
    multiple=True,
    help="A recurrent state: the output is the input of the next frame, and 0 before the first. Repeatable.",
)
@click.option("--colour", type=click.Choice(COLOURS), help="Order of the channels.")
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Values of the input: imagenet (ImageNet's mean and deviation; RGB by default), unit (0 to 1), "
    "symmetric (-1 to 1) or raw (0 to 255).",
)
@click.option("--mean", metavar="LIST", help="Mean that is subtracted: a number, or one per channel.")
@click.option(
    "--std",
    metavar="LIST",
    help="Deviation that is divided by. If no number of --mean and --std is above 1, white is 1, else 255.",
)
@click.option("--output", metavar="NAME", help="Output that holds the map.")
@click.option(
    "--channel", type=int, metavar="N", help="Which of several maps of the output; -1 is the last one."
)
@click.option(
    "--activation",
    type=click.Choice(ACTIVATIONS),
    help="What makes a map of the output: sigmoid, softmax over all pixels, logsoftmax if it is the "
    "logarithm of a density, or none.",
)
@click.option(
    "--map", "map_size", metavar="WxH", help="Size of the map; another than the output's is interpolated."
)
@FRAMES_OPTION
@calibration_frames_option(DEFAULT_WINDOWS)
@METHOD_OPTION
@click.option("--budget", metavar="LIST", help="Limits for the loss of int8, as for aerogaze export.")
def import_model(
    model: Path,
    kind: str | None,
    out: Path,
    name: str | None,
    licence: str,
    source: str,
    size: str | None,
    d1_last: bool,
    layout: str | None,
    window: int | None,
    states: tuple[str, ...],
    colour: Colour | None,
    preset: str | None,
    mean: str | None,
    std: str | None,
    output: str | None,
    channel: int | None,
    activation: str | None,
    map_size: str | None,
    frames: tuple[str, ...],
    calibration_frames: int,
    method: MethodChoice,
    budget: str | None,
) -> None:
    """Make a student or a release of MODEL, which was trained elsewhere.

    A checkpoint of TinyHD's authors becomes a student. Only tensors are read: code in the file is never run.

    An ONNX file becomes a release. The network takes a frame, a window of frames, or a frame and states, and
    gives a map. What the graph settles need not be said.

    Both record the file's hash, and licence and source as stated.
    """
    kind = kind or ("onnx" if model.suffix.lower() == ".onnx" else None)
    if kind is None:
        raise InputError(f"{model} can be several things; say which: --kind {'|'.join(KINDS)}")
    if kind == "onnx":
        if d1_last:
            raise InputError("--d1-last is for TinyHD's checkpoints: leave it out")
        from export.cli.import_network import ImportRequest, import_network  # imports torch and onnx

        values = dict(click.get_current_context().params)
        request = ImportRequest(**{field: values[field] for field in ImportRequest.__dataclass_fields__})
        import_network(model, out, request)
        return
    for_onnx = {key for heading, keys in _SECTIONS.items() if heading.startswith("ONNX") for key in keys}
    _refuse_options({"name", *for_onnx})
    _import_tinyhd(model, out, size or TINYHD_SIZE, licence, source, d1_last)


def _refuse_options(names: set[str]) -> None:
    """Refuse options of another kind of model.

    Raises:
        InputError: One of them is given.
    """
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE
        if param.name in names and given:
            raise InputError(
                f"{param.opts[0]} is for ONNX files; a checkpoint of TinyHD has none: leave it out"
            )


def _import_tinyhd(model: Path, out: Path, size: str, licence: str, source: str, d1_last: bool) -> None:
    """Write the student of a checkpoint of TinyHD's authors."""
    from trainer.models.published.tinyhd_checkpoint import load_tinyhd_checkpoint  # imports torch
    from trainer.models.student import Student, parameter_count

    if not out.suffix:
        out = out.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise InputError(f"cannot write {out}: expected a name ending in .safetensors")
    PendingFile(out).discard()  # fails now, not after the work, if the file cannot be written
    width, height = parse_size(size, "--size", TINYHD_SIDE, MAX_SIDE)
    settings, network = load_tinyhd_checkpoint(model, height, width, d1_last)
    card = {
        "kind": "tinyhd",
        "file": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "licence": licence,
        "source": source,
        "d1_last": d1_last,
        "preprocessing": vars(settings.preprocessing()),
    }
    Student(out.stem, settings, network, {"imported": card}).save(out)
    print(
        f"{out.stem}: TinyHD-{settings.variant}, rc {settings.rc}, decoders {', '.join(settings.decoders)}, "
        f"{parameter_count(network):,} parameters; licence: {licence}; wrote {out}"
    )
    print_next_step(f"aerogaze export {out} --frames SOURCE --out RELEASE")
