"""`aerogaze demo`: runs every stage once, through the commands that a user types, and writes a report."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from edge.cli.console import hide_next_steps, print_next_step
from edge.cli.main import invoke
from edge.cli.options import FOLDER
from edge.core.atomic_files import atomic_file
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.release.manifest import DEFAULT_RELEASE
from edge.sources.factory import open_source
from edge.sources.public_name import public_name

DEFAULT_SOURCE = "synthetic:11:640x360:120"
PRECISIONS = "fp32,fp16,int8"
OUT_CONSOLE = Console(highlight=False, soft_wrap=True)


@click.command(epilog="Example: aerogaze demo --source flight.mp4")
@click.option(
    "--source",
    metavar="SOURCE",
    default=DEFAULT_SOURCE,
    show_default=True,
    help="A video, a folder of images, or synthetic:SEED.",
)
@click.option(
    "--out",
    type=FOLDER,
    default="out/demo",
    show_default=True,
    help="Write to this folder.",
)
@click.option(
    "--student",
    metavar="NAME",
    default=DEFAULT_RELEASE,
    show_default=True,
    help="Student to export, measure and run.",
)
def demo(source: str, out: Path, student: str) -> None:
    """Train for a minute, then export, build, measure and run the shipped student; write a report."""
    # These import torch and matplotlib, which the help does not need.
    from export.cli.demo_report import render_report
    from trainer.models.student import load_student

    started = time.perf_counter()
    open_source(source).close()  # fails now, not after the training, if there is no such source
    load_student(student)
    summary_path, report_path = out / "summary.json", out / "report.html"
    # Both are written last, so a demo without them is incomplete.
    for stale in (summary_path, report_path):
        stale.unlink(missing_ok=True)
    shutil.rmtree(out / "training", ignore_errors=True)  # train would resume it and have nothing to show
    stages = _Stages()
    with hide_next_steps():
        summary = _run_stages(stages, source, out, student)
    with atomic_file(report_path) as path:
        path.write_text(render_report(summary, out))
    with atomic_file(summary_path) as path:
        path.write_text(json.dumps(summary, indent=1) + "\n")
    OUT_CONSOLE.print(
        f"\n[bold]Done in {time.perf_counter() - started:.0f} s.[/bold] Open {escape(str(report_path))}"
    )
    print_next_step(f"aerogaze run YOUR-VIDEO --release {out / 'release'} --overlay saliency.mp4")


class _Stages:
    """Runs commands and keeps the seconds of each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, title: str, command: str, *arguments: str | Path) -> None:
        words = [command, *map(str, arguments)]
        shown = shlex.join(map(public_name, words))
        OUT_CONSOLE.print(f"\n[bold]{title}[/bold]\n[dim]{escape(f'$ aerogaze {shown}')}[/dim]")
        started = time.perf_counter()
        invoke(words)
        self.seconds[command] = time.perf_counter() - started


def _run_stages(stages: _Stages, source: str, out: Path, student: str) -> dict[str, Any]:
    """Run the commands in `out`, and return the summary of their results."""
    release, latency = out / "release", out / "latency.json"
    student_file, training = out / "demo-32.safetensors", out / "training"
    title = "A minute of distillation on the simulated world"
    stages.run(title, "train", "demo", "--out", student_file, "--run", training)
    title = f"The shipped student {student} as one graph per precision, calibrated on your frames"
    options = ("--form", "stream", "--calibration-frames", "120")
    stages.run(title, "export", student, "--frames", source, "--out", release, *options)
    engines = _build_engines(stages, release)
    stages.run("Latency per precision", "profile", release, "--precision", PRECISIONS, "--json", latency)
    overlay, results = out / "overlay.mp4", out / "saliency.jsonl"
    outputs = ("--overlay", overlay, "--jsonl", results, "--maps", out / "maps")
    stages.run("The clip", "run", source, "--release", release, *outputs)
    manifest = json.loads((release / "release.json").read_text())
    return {
        "schema": 1,
        "source": public_name(source),
        "seconds": stages.seconds,
        "release": {key: manifest[key] for key in ("name", "student", "calibrated", "graphs")},
        "engines": engines,
        "profile": json.loads(latency.read_text()),
        "frames": len(results.read_text().splitlines()),
    }


def _build_engines(stages: _Stages, release: Path) -> list[dict[str, object]]:
    """Build engines if TensorRT for RTX is installed, and return their identities."""
    if not importlib.util.find_spec("tensorrt_rtx"):
        OUT_CONSOLE.print(
            "\nEngines: skipped, TensorRT for RTX is not installed: pip install 'aerogaze\\[rtx]'"
        )
        return []
    stages.run("Engines, by NVIDIA's builder", "build", release, "--target", "rtx")
    identities = sorted((release / ENGINES_FOLDER / "rtx").glob("*.engine.json"))
    return [json.loads(path.read_text()) for path in identities]
