"""`aerogaze export`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from calibration.inputs.calibration_frames import read_frames
from calibration.search.accuracy import Budget
from calibration.search.method_selection import BEST, CHOICES, Choosing
from edge.core.atomic_files import PendingFolder, cache_folder
from edge.core.errors import InputError
from edge.preprocessing.raw_frame import PIXEL_FORMATS, PixelFormat, RawFrameSpec
from edge.release.manifest import Form, MAX_BLUR, load_release
from edge.sources.factory import open_source
from export.release.builder import EXPORT_OPTIONS, is_release_file, make_release
from export.release.clip_release import MOST as MOST_CLIPS
from export.release.clip_release import make_clip_release
from export.release.fuse_release import make_fused_release
from trainer.models.forms import forms_of
from trainer.models.student import load_student

ERR_CONSOLE = Console(stderr=True)
DEFAULT_WINDOWS = 200
"""Windows that an export reads unless told: more change ranges little, and take their time."""


def _status(words: str) -> Status:
    return ERR_CONSOLE.status(escape(words))


@click.command(epilog="Example: aerogaze export skd-64 --frames flight.mp4 --out my-release")
@click.argument("student")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The release: a new folder.")
@click.option(
    "--frames",
    multiple=True,
    help="Footage for ranges and parity: a video, a folder of images, or synthetic:SEED. Once or more.",
)
@click.option(
    "--method",
    type=click.Choice(CHOICES),
    default=BEST,
    show_default=True,
    help="How ranges are chosen.",
)
@click.option(
    "--calibration-frames",
    type=click.IntRange(min=1),
    default=DEFAULT_WINDOWS,
    show_default=True,
    help="Windows of frames at most, the most varied; a quarter is held out.",
)
@click.option(
    "--form",
    "forms",
    type=click.Choice(["stream", "pair"]),
    multiple=True,
    help="Only this form (default: all that the student has).",
)
@click.option(
    "--budget",
    help="As of aerogaze calibrate: search for the fastest int8 graphs that lose no more.",
)
@click.option(
    "--offer-int8",
    is_flag=True,
    help="Ship TensorRT's int8 whatever its modelled latency: boards measure, and choose.",
)
@click.option(
    "--blur",
    type=click.FloatRange(min=0, max=MAX_BLUR),
    default=0.0,
    show_default=True,
    help="Soften maps by a Gaussian: its sigma in widths of the map. 0 is sharpest, for targets.",
)
@click.option(
    "--fuse-preprocess",
    "raw_size",
    metavar="WIDTHxHEIGHT",
    help="Resize and scale inside the graph: it takes raw uint8 frames of this size (stream form).",
)
@click.option(
    "--fuse-format",
    "raw_format",
    type=click.Choice(PIXEL_FORMATS),
    default="bgr",
    show_default=True,
    help="Of these raw frames.",
)
def export(
    student: str,
    out: Path,
    frames: tuple[str, ...],
    method: Choosing,
    calibration_frames: int,
    forms: tuple[Form, ...],
    budget: str | None,
    offer_int8: bool,
    blur: float,
    raw_size: str | None,
    raw_format: PixelFormat,
) -> None:
    """Make a release of STUDENT: a .safetensors file or a shipped student's name.

    fp32, fp16 and int8 graphs, each verified against PyTorch on held-out frames.
    """
    raw = RawFrameSpec.parse(raw_size, raw_format) if raw_size else None
    if raw and forms not in ((), ("stream",)):
        raise InputError("--fuse-preprocess makes streaming graphs only: leave --form out")
    options = replace(EXPORT_OPTIONS, method=method, cache=cache_folder(), offer=offer_int8)
    if budget is not None:
        options = replace(options, budget=Budget.parse(budget), thorough=True, tries=None)
    loaded = load_student(student)
    if raw and loaded.settings.preprocessing().alignment is not None:
        raise InputError(
            f"student {loaded.name} looks for the camera's motion in each frame, which no graph does; "
            "leave --fuse-preprocess out"
        )
    if budget and "clip" in forms_of(loaded).modules:
        raise InputError(f"student {loaded.name} takes clips, which have no int8 graphs: leave --budget out")
    PendingFolder(out, is_release_file).discard()  # told now, not after the reading
    with ExitStack() as opened, _status(f"reading {', '.join(frames)}"):
        sources = [open_source(name) for name in frames]
        for source in sources:
            opened.callback(source.close)
        window, clips = forms_of(loaded).window, "clip" in forms_of(loaded).modules
        most = min(calibration_frames, MOST_CLIPS) if clips else calibration_frames
        footage = read_frames(sources, loaded.settings.preprocessing(), window, most)
    with _status("export") as status, tempfile.TemporaryDirectory() as scratch:

        def on_step(step: str) -> None:
            status.update(escape(f"export {loaded.name}: {step}"))

        if clips and not forms and not raw:
            made = make_clip_release(loaded, footage, out, on_step, blur)
        else:
            place = Path(scratch) / "plain" if raw else out
            made = make_release(loaded, footage, place, ("stream",) if raw else forms, options, on_step, blur)
        if raw:
            status.update(escape(f"export {loaded.name}: preprocessing inside, for {raw}"))
            made = make_fused_release(load_release(Path(scratch) / "plain"), raw, out)
    table = Table(title=escape(f"{made.name} -> {out}"), title_justify="left")
    for column in ("graph", "for", "KiB", "max error", "CC", "KLD", "held to"):
        table.add_column(column, justify="left" if column in ("graph", "for") else "right")
    for graph, verified in made.verified():
        table.add_row(
            f"{graph.form} {graph.precision}",
            graph.engine,
            f"{(out / graph.file).stat().st_size / 1024:.0f}",
            f"{verified.max_error:.0e}",
            f"{verified.mean_cc:.5f}",
            f"{verified.mean_kld:.0e}",
            f"error {verified.tolerance:.0e}"
            if graph.precision == "fp32"
            else f"CC {1 - verified.tolerance:.4f}",
        )
    Console().print(table)
    apart = "held out" if footage.apart else "the same: too few to hold any out"
    for doubt in footage.doubts:
        ERR_CONSOLE.print(f"warning: {escape(doubt)}", highlight=False, soft_wrap=True)
    if raw:
        print(f"the graphs take raw frames of {raw}; parity was measured before preprocessing went inside")
    used = (made.calibrated or {}).get("method")
    said = f"{used} ranges from {len(footage.windows)} windows of {window} frames; " if used else ""
    for form, int8 in (made.calibrated or {}).get("int8", {}).items():
        for one in int8:
            told = f"{form} int8 for {one['engine']}: {one['reason']}; latency {one['latency']}"
            print(f"{told} on {one['conditions'].get('cpu') or one['conditions'].get('name')}")
    print(f"{said}maps against PyTorch's in fp32 on {len(footage.held_out)}, {apart}")
