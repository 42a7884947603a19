"""`aerogaze demo`: every stage once, by the commands a user would type, and a report."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import time
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from edge.cli.main import invoke
from edge.core.atomic_files import written_file
from edge.inference.engine_selection import ENGINES_FOLDER
from edge.release.manifest import DEFAULT_RELEASE
from edge.sources.factory import open_source
from export.cli.demo_report import write_report
from trainer.models.student import load_student

SOURCE = "synthetic:11:640x360:120"
PRECISIONS = "fp32,fp16,int8"
OUT = Console(highlight=False, soft_wrap=True)


@click.command(epilog="Example: aerogaze demo --source flight.mp4")
@click.option(
    "--source",
    default=SOURCE,
    show_default=True,
    help="A video, a folder of images, or synthetic:SEED.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="out/demo",
    show_default=True,
    help="The folder to write to.",
)
@click.option(
    "--student", default=DEFAULT_RELEASE, show_default=True, help="The student to export, measure and run."
)
def demo(source: str, out: Path, student: str) -> None:
    """Train for a minute, then export, build, measure and run the shipped student; write a report."""
    started = time.perf_counter()
    open_source(source).close()  # what is wrong is told now, not after the training
    load_student(student)
    summary_path, report_path = out / "summary.json", out / "report.html"
    for stale in (summary_path, report_path):
        stale.unlink(missing_ok=True)  # written last: without it a demo is not complete
    shutil.rmtree(out / "training", ignore_errors=True)  # or it would be gone on with, not shown again
    release, latency = out / "release", out / "latency.json"
    seconds: dict[str, float] = {}

    def stage(title: str, *arguments: str | Path) -> None:
        words = [str(argument) for argument in arguments]
        OUT.print(f"\n[bold]{title}[/bold]\n[dim]{escape(f'$ aerogaze {shlex.join(words)}')}[/dim]")
        before = time.perf_counter()
        invoke(words)
        seconds[words[0]] = time.perf_counter() - before

    stage(
        "A minute of distillation on the made world",
        "train",
        "demo",
        "--out",
        out / "demo-32.safetensors",
        "--run",
        out / "training",
    )
    stage(
        f"The shipped student {student} as graphs per precision, calibrated on your frames",
        "export",
        student,
        "--frames",
        source,
        "--out",
        release,
        "--form",
        "stream",
        "--calibration-frames",
        "120",
    )
    engines: list[dict[str, object]] = []
    if importlib.util.find_spec("tensorrt_rtx"):
        stage("Engines, by NVIDIA's builder", "build", release, "--target", "rtx")
        places = sorted((release / ENGINES_FOLDER / "rtx").glob("*.engine.json"))
        engines = [json.loads(place.read_text()) for place in places]
    else:
        OUT.print("\nEngines: left out, TensorRT for RTX is not installed: pip install 'aerogaze\\[rtx]'")
    stage("Latency per precision", "profile", release, "--precision", PRECISIONS, "--json", latency)
    stage(
        "The clip",
        "run",
        source,
        "--release",
        release,
        "--overlay",
        out / "overlay.mp4",
        "--jsonl",
        out / "saliency.jsonl",
        "--maps",
        out / "maps",
    )

    manifest = json.loads((release / "release.json").read_text())
    summary = {
        "schema": 1,
        "source": source,
        "seconds": seconds,
        "release": {k: manifest[k] for k in ("name", "student", "calibrated", "graphs")},
        "engines": engines,
        "profile": json.loads(latency.read_text()),
        "frames": len((out / "saliency.jsonl").read_text().splitlines()),
    }
    with written_file(report_path) as path:
        path.write_text(write_report(summary, out))
    with written_file(summary_path) as path:
        path.write_text(json.dumps(summary, indent=1) + "\n")
    OUT.print(
        f"\n[bold]Done in {time.perf_counter() - started:.0f} s.[/bold] Open {escape(str(report_path))}"
    )
