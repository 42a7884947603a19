"""`aerogaze build`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge.core.errors import CheckError
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.inference.tensorrt.build_target import BuildTarget
from export.engines.build import Engine, build_engines, survey
from export.engines.build_source import Buildable, open_buildable

ERR_CONSOLE = Console(stderr=True)


@click.command(epilog="Example: aerogaze build my-release --target rtx:8.6,8.9")
@click.argument("release", required=False)
@click.option(
    "--target",
    "target_name",
    metavar="local|rtx[:CC,...]",
    required=True,
    help="local: this board's TensorRT; rtx: TensorRT for RTX, for GPUs of these compute capabilities.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help=f"A folder for the engines (default: {ENGINES_FOLDER}/TARGET in the release's folder).",
)
@click.option("--check", is_flag=True, help="Build nothing: say whether the engines at hand fit.")
@click.option("--rebuild", is_flag=True, help="Build engines that do not fit again.")
def build(release: str | None, target_name: str, out: Path | None, check: bool, rebuild: bool) -> None:
    """Compile the graphs of RELEASE with TensorRT. Engines that fit are kept as they are.

    RELEASE: a folder, a shipped release's name, or what `aerogaze calibrate` wrote of an ONNX file.
    """
    if check and rebuild:
        raise click.UsageError("--check builds nothing; leave --check or --rebuild out")
    opened, target = open_buildable(release), BuildTarget.parse(target_name)
    place = out or opened.folder / ENGINES_FOLDER / target.folder
    if check:
        _check(opened, target, place)
        return
    rows = []
    with Progress(
        SpinnerColumn(),
        TextColumn(f"build {escape(opened.name)}: {{task.description}}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[estimate]}"),
        console=ERR_CONSOLE,
        transient=True,
        disable=not ERR_CONSOLE.is_terminal,
    ) as progress:
        task = progress.add_task("looking at what is there", total=None, estimate="")

        def on_start(engine: Engine, estimate_s: float | None) -> None:
            last = "not built here before" if estimate_s is None else f"last time {estimate_s:.0f} s"
            progress.reset(task, description=engine.graph.name, estimate=last)

        rows = list(build_engines(opened, target, place, rebuild, on_start=on_start))
    table = Table(
        title=escape(f"{opened.name} for {target}, TensorRT {rows[0][0].version}"), title_justify="left"
    )
    for column in ("graph", "engine", "KiB", "seconds"):
        table.add_column(column, justify="right" if column in ("KiB", "seconds") else "left")
    for identity, new in rows:
        seconds = f"{identity.seconds:.2f}" if new else "kept"
        table.add_row(identity.graph, identity.file, f"{identity.size_bytes / 1024:.0f}", seconds)
    Console().print(table)
    built = sum(new for _, new in rows)
    print(f"wrote {place}" if built else f"all {len(rows)} engines in {place} fit: nothing to build")


def _check(source: Buildable, target: BuildTarget, place: Path) -> None:
    engines = survey(source, target, place)
    table = Table(title=escape(f"{source.name} for {target}, here"), title_justify="left")
    table.add_column("engine", no_wrap=True)
    table.add_column("fits")
    for engine in engines:
        table.add_row(engine.wanted.file, escape("; ".join(engine.differs)) or "yes")
    Console().print(table)
    unfit = [engine for engine in engines if engine.differs]
    if unfit:
        raise CheckError(
            f"{len(unfit)} of {len(engines)} engines in {place} do not fit "
            f"({unfit[0].wanted.file}: {'; '.join(unfit[0].differs)}): aerogaze build with --rebuild mends it"
        )
    print(f"all {len(engines)} engines in {place} fit")
