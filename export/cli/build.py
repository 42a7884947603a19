"""`aerogaze build`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge.cli.console import ERR_CONSOLE, print_next_step
from edge.cli.options import FOLDER
from edge.core.errors import CheckError
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.inference.tensorrt.build_target import BuildTarget
from edge.inference.tensorrt.engine_identity import EngineIdentity
from edge.release.manifest import RELEASE_MANIFEST
from export.engines.build import EngineStatus, build_engines, check_engines
from export.engines.build_source import EngineSource, open_engine_source


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
    type=FOLDER,
    help=f"Write the engines to this folder (default: {ENGINES_FOLDER}/TARGET in the release's folder).",
)
@click.option("--check", is_flag=True, help="Build nothing; report whether the existing engines fit.")
@click.option("--rebuild", is_flag=True, help="Rebuild the engines that do not fit.")
def build(release: str | None, target_name: str, out: Path | None, check: bool, rebuild: bool) -> None:
    """Compile the graphs of RELEASE with TensorRT. Existing engines that fit are kept.

    RELEASE is a folder, the name of a shipped release, or a folder that aerogaze calibrate wrote for an ONNX
    file.
    """
    if check and rebuild:
        raise click.UsageError("--check builds nothing; leave --check or --rebuild out")
    source, target = open_engine_source(release), BuildTarget.parse(target_name)
    folder = out or source.folder / ENGINES_FOLDER / target.folder
    if check:
        _check(source, target, folder)
        return
    engines = _build(source, target, folder, rebuild)
    version = engines[0][0].version
    table = Table(title=escape(f"{source.name} for {target}, TensorRT {version}"), title_justify="left")
    for column in ("graph", "engine", "KiB", "seconds"):
        table.add_column(column, justify="right" if column in ("KiB", "seconds") else "left")
    for identity, is_new in engines:
        seconds = f"{identity.seconds:.2f}" if is_new else "kept"
        table.add_row(identity.graph, identity.file, f"{identity.size_bytes / 1024:.0f}", seconds)
    Console().print(table)
    has_built = any(is_new for _, is_new in engines)
    print(f"wrote {folder}" if has_built else f"all {len(engines)} engines in {folder} fit: nothing to build")
    print_next_step(_next_step(source, target))


def _next_step(source: EngineSource, target: BuildTarget) -> str:
    if (source.folder / RELEASE_MANIFEST).is_file():
        return f"aerogaze profile {source.folder} --engine tensorrt, where the GPU is"
    graph = f"{source.graphs[0]}@{target.folder.partition('-')[0]}"
    return f"aerogaze compare {source.graphs[0]} {graph} --frames SOURCE, where the GPU is"


def _build(
    source: EngineSource, target: BuildTarget, folder: Path, rebuild: bool
) -> list[tuple[EngineIdentity, bool]]:
    """Build under a progress line; return each engine and whether it is new."""
    with Progress(
        SpinnerColumn(),
        TextColumn(f"build {escape(source.name)}: {{task.description}}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[estimate]}"),
        console=ERR_CONSOLE,
        transient=True,
        disable=not ERR_CONSOLE.is_terminal,
    ) as progress:
        task = progress.add_task("checking existing engines", total=None, estimate="")

        def on_start(engine: EngineStatus, estimate_s: float | None) -> None:
            estimate = "not built here before" if estimate_s is None else f"last time {estimate_s:.0f} s"
            progress.reset(task, description=engine.graph.name, estimate=estimate)

        return list(build_engines(source, target, folder, rebuild, on_start=on_start))


def _check(source: EngineSource, target: BuildTarget, folder: Path) -> None:
    engines = check_engines(source, target, folder)
    table = Table(title=escape(f"{source.name} for {target}, on this machine"), title_justify="left")
    table.add_column("engine", no_wrap=True)
    table.add_column("fits")
    for engine in engines:
        table.add_row(engine.identity.file, escape("; ".join(engine.mismatches)) or "yes")
    Console().print(table)
    unfit = [engine for engine in engines if engine.mismatches]
    if unfit:
        is_only_missing = all(engine.mismatches == ("not built",) for engine in unfit)
        remedy = "leave --check out" if is_only_missing else "use --rebuild instead of --check"
        raise CheckError(
            f"{len(unfit)} of {len(engines)} engines in {folder} do not fit ({unfit[0].identity.file}: "
            f"{'; '.join(unfit[0].mismatches)}); expected all to fit: {remedy} to build them"
        )
    print(f"all {len(engines)} engines in {folder} fit")
