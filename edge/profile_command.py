"""`aerogaze profile`."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge import profiler
from edge import release as releases
from edge.console import progress_bar
from edge.engines import Choice
from edge.errors import InputError
from edge.files import PendingFile, written_file
from edge.machine import this_machine
from edge.options import engine_option


@click.command(epilog="Example: aerogaze profile skd-64 --precision fp32,int8 --json latency.json")
@click.argument("release", required=False)
@click.option("--precision", help="Comma-separated: fp32,fp16,int8 (default: all that the release has).")
@engine_option
@click.option(
    "--form",
    type=click.Choice(releases.FORMS),
    help="Frame by frame with states, frame pairs, or clips (default: stream, if the release has it).",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine (default: one a core).")
@click.option(
    "--runs",
    type=click.IntRange(min=300),
    default=300,
    show_default=True,
    help="Measured runs of each precision.",
)
@click.option(
    "--warm-up",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Runs before, not measured.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    help="Write the measurement with its conditions.",
)
def profile(
    release: str | None,
    precision: str | None,
    engine: Choice,
    form: releases.Form | None,
    threads: int | None,
    runs: int,
    warm_up: int,
    json_path: Path | None,
) -> None:
    """Measure the latency of RELEASE per precision: the engine's call, batch 1."""
    opened = releases.load(release)
    form = form or (opened.forms() or releases.FORMS)[0]
    made_for: releases.Engine = "tensorrt" if engine == "tensorrt" else "onnxruntime"
    precisions: list[str] = [*opened.precisions(form, made_for)]
    if precision:
        precisions = [p.strip() for p in precision.split(",")]
    if not precisions:
        raise InputError(f"release {opened.name} has no graph in {form} form; try the other --form")
    if json_path:
        PendingFile(json_path).discard()  # what cannot be written is told now, not after the measuring
    with progress_bar("profile", "runs/s") as progress:
        task = progress.add_task(escape(opened.name), total=runs * len(precisions))
        results = profiler.profile(
            opened, precisions, form, threads, runs, warm_up, lambda n: progress.advance(task, n), engine
        )
    machine = this_machine()
    document = {
        "schema": 1,
        "release": opened.name,
        "input": {"width": opened.preprocessing.width, "height": opened.preprocessing.height},
        "machine": {
            "cpu": machine.cpu,
            "architecture": machine.architecture,
            "cores": machine.cores,
            "system": machine.system,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("aerogaze", "numpy", "onnxruntime")},
        },
        "latencies": [dataclasses.asdict(result) for result in results],
    }
    if json_path:
        with written_file(json_path) as path:
            path.write_text(json.dumps(document, indent=1) + "\n")
    engines = "; ".join(dict.fromkeys(result.engine for result in results))
    table = Table(title=escape(f"{opened.name}, {form}, batch 1, {engines}"), title_justify="left")
    for column in ("precision", "mean ms", "p50", "p90", "p99", "std", "fps", "KiB", "of fp32"):
        table.add_column(column, justify="left" if column == "precision" else "right")
    base = next((r.p50_ms for r in results if r.precision == "fp32"), None)
    for r in results:
        table.add_row(
            r.precision + ("*" if r.emulated else ""),
            *(f"{v:.3f}" for v in (r.mean_ms, r.p50_ms, r.p90_ms, r.p99_ms, r.std_ms)),
            f"{r.fps:.0f}",
            f"{r.size_bytes / 1024:.0f}",
            f"{base / r.p50_ms:.2f}x" if base else "-",
        )
    Console().print(table)
    print(
        f"{runs} runs each after {warm_up} of warm-up, in turns of {profiler.ROUND}; "
        f"{machine.cpu}, {machine.cores} cores"
    )
    if any(r.emulated for r in results):
        print("* emulated: not computed in that precision by this processor; no drone's speed")
    if json_path:
        print(f"wrote {json_path}")
