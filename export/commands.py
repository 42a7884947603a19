"""`aerogaze export` and `aerogaze build`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from calibration.frames import MOST, read_frames
from calibration.judge import Budget
from calibration.method import BEST, CHOICES, Choosing
from calibration.store import cache_folder
from edge import release as releases
from edge.files import PendingFolder
from edge.sources import open_source
from export.engine import build_engines
from export.make import ENGINES, make_release, ours_in_release
from trainer.models.forms import forms_of
from trainer.models.student import load_student

ERR = Console(stderr=True)


def _status(words: str) -> Status:
    return ERR.status(escape(words))


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
    default=MOST,
    show_default=True,
    help="Windows of frames at most, spread over the footage.",
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
def export(
    student: str,
    out: Path,
    frames: tuple[str, ...],
    method: Choosing,
    calibration_frames: int,
    forms: tuple[releases.Form, ...],
    budget: str | None,
) -> None:
    """Make a release of STUDENT: a .safetensors file or a shipped student's name.

    fp32, fp16 and int8 graphs, each verified against PyTorch on held-out frames.
    """
    allowed = Budget.parse(budget) if budget is not None else None
    loaded = load_student(student)
    PendingFolder(out, ours_in_release).discard()  # told now, not after the reading
    with ExitStack() as opened, _status(f"reading {', '.join(frames)}"):
        sources = [open_source(name) for name in frames]
        for source in sources:
            opened.callback(source.close)
        window = forms_of(loaded).window
        footage = read_frames(sources, loaded.settings.preprocessing(), window, calibration_frames)
    with _status("export") as status:
        made = make_release(
            loaded,
            footage,
            out,
            forms,
            method,
            lambda step: status.update(escape(f"export {loaded.name}: {step}")),
            cache_folder(),
            allowed,
        )
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
            else f"CC {1 - verified.tolerance:.3f}",
        )
    Console().print(table)
    apart = "held out" if footage.apart else "the same: too few to hold any out"
    for doubt in footage.doubts:
        ERR.print(f"warning: {escape(doubt)}", highlight=False, soft_wrap=True)
    used = (made.calibrated or {}).get("method")
    print(
        f"{used} ranges from {len(footage.windows)} windows of {window} frames; maps against PyTorch's "
        f"in fp32 on {len(footage.held_out)}, {apart}"
    )


@click.command(epilog="Example: aerogaze build my-release --target rtx")
@click.argument("release", required=False)
@click.option(
    "--target",
    type=click.Choice(["local", "rtx"]),
    required=True,
    help="local: this board's TensorRT; rtx: TensorRT for RTX.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"A folder for the engines (default: {ENGINES}/TARGET in the release).",
)
def build(release: str | None, target: str, out: Path | None) -> None:
    """Compile the graphs of RELEASE with TensorRT, on the machine at hand."""
    opened = releases.load(release)
    place = out or opened.folder / ENGINES / target
    with _status(f"build {opened.name}"):
        engines = list(build_engines(opened, "rtx" if target == "rtx" else "tensorrt", place))
    table = Table(title=escape(f"{opened.name}, {engines[0].tensorrt}"), title_justify="left")
    for column in ("graph", "engine", "KiB", "seconds"):
        table.add_column(column, justify="right" if column in ("KiB", "seconds") else "left")
    for built in engines:
        table.add_row(built.graph, built.file, f"{built.size_bytes / 1024:.0f}", f"{built.seconds:.2f}")
    Console().print(table)
    print(f"wrote {place}")
