"""`aerogaze export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from calibration.ranges.histogram import MethodChoice
from edge.cli.console import print_next_step
from edge.cli.options import FOLDER, range_option
from edge.core.errors import InputError
from edge.preprocessing.raw_frame import PIXEL_FORMATS, PixelFormat, RawFrameSpec
from edge.release.manifest import MAX_BLUR
from edge.release.release import Form
from export.cli.target_options import FRAMES_OPTION, METHOD_OPTION, calibration_frames_option

DEFAULT_WINDOWS = 200
"""Windows that an export reads by default. More of them change ranges little and take longer."""


@click.command(epilog="Example: aerogaze export skd-64 --frames flight.mp4 --out my-release")
@click.argument("student")
@click.option("--out", type=FOLDER, required=True, help="Write the release to this new folder.")
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the release in summaries, on pages and on boards (default: that of the student's file).",
)
@FRAMES_OPTION
@range_option
@METHOD_OPTION
@calibration_frames_option(DEFAULT_WINDOWS)
@click.option(
    "--form",
    "forms",
    type=click.Choice(["stream", "pair"]),
    multiple=True,
    help="Export only this form (default: all that the student has).",
)
@click.option(
    "--budget",
    metavar="LIST",
    help="Search for the fastest int8 graphs whose loss stays within these limits: cc=0.005, kld=0.005, or "
    "both with a comma.",
)
@click.option(
    "--offer-int8",
    is_flag=True,
    help="Without effect: int8 for TensorRT always ships if it keeps its budget.",
)
@click.option(
    "--blur",
    type=click.FloatRange(min=0, max=MAX_BLUR),
    metavar="SIGMA",
    default=0.0,
    show_default=True,
    help="Blur maps with a Gaussian of this sigma, in widths of the map. 0 is sharpest, for small targets.",
)
@click.option(
    "--fuse-preprocess",
    "raw_size",
    metavar="WxH",
    help="Resize and scale inside the graph, which then takes raw uint8 frames of this size (stream form).",
)
@click.option(
    "--fuse-format",
    "raw_format",
    type=click.Choice(PIXEL_FORMATS),
    default="bgr",
    show_default=True,
    help="Pixel format of the raw frames.",
)
def export(
    student: str,
    out: Path,
    name: str | None,
    frames: tuple[str, ...],
    method: MethodChoice,
    calibration_frames: int,
    forms: tuple[Form, ...],
    budget: str | None,
    offer_int8: bool,
    blur: float,
    raw_size: str | None,
    raw_format: PixelFormat,
) -> None:
    """Make a release of STUDENT: a .safetensors file, or the name of a shipped student.

    Exports fp32, fp16 and int8 graphs and verifies each against PyTorch on held-out frames.
    """
    # OpenMP reads this when PyTorch loads it. By default, a thread that waits for another one spins, which
    # takes twice the processor time of the work on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # The work imports torch and onnx, which the help does not need.
    from export.cli.export_release import ExportRequest, export_release

    raw = RawFrameSpec.parse(raw_size, raw_format) if raw_size else None
    if raw and forms not in ((), ("stream",)):
        raise InputError("--fuse-preprocess makes streaming graphs only: leave --form out")
    if offer_int8:
        print(
            "note: --offer-int8 has no effect: int8 for TensorRT always ships if it keeps its budget",
            file=sys.stderr,
        )
    request = ExportRequest(name, method, calibration_frames, forms, budget, blur, raw)
    export_release(student, frames, out, request)
    print_next_step(f"aerogaze profile {out}")
