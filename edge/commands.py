"""`aerogaze run` and `aerogaze profile`."""

from __future__ import annotations

import dataclasses
import json
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from edge import pipeline, profiler
from edge import release as releases
from edge.errors import InputError
from edge.files import PendingFile, written_file
from edge.frames import Source
from edge.machine import this_machine
from edge.model import SaliencyModel
from edge.sinks import Sink
from edge.sources import open_source

ERR = Console(stderr=True, markup=False)
RUN_THREADS = 1
"""Threads of inference in `run`: the students are small, and decoding and output want cores too."""


@click.command(epilog="Example: aerogaze run clip.mp4 --overlay saliency.mp4 --jsonl saliency.jsonl")
@click.argument("source")
@click.option("--release", help="A release's folder or a shipped one's name (default: skd-64).")
@click.option("--precision", help="fp32, fp16 or int8 (default: the fastest this machine runs natively).")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True, max=1000),
    help="The source's frame rate, if it is not what it says (a folder of images: 10).",
)
@click.option(
    "--overlay", type=click.Path(path_type=Path), help="Write a video: frames under their saliency."
)
@click.option(
    "--jsonl",
    type=click.Path(path_type=Path),
    help="Write a JSON object a frame: time, latency, peaks.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Write a folder of 16-bit PNG maps, one a frame.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=RUN_THREADS,
    show_default=True,
    help="Threads of inference.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary as JSON.")
def run(
    source: str,
    release: str | None,
    precision: str | None,
    max_frames: int | None,
    fps: float | None,
    overlay: Path | None,
    jsonl: Path | None,
    maps: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """Turn SOURCE into saliency maps: a video file, a folder of images, or synthetic:SEED."""
    places = [place for place in (overlay, jsonl, maps) if place]
    _keep_apart(Path(source), places)
    stop = threading.Event()
    with ExitStack() as opened:
        frames = open_source(source)
        opened.callback(frames.close)
        frames.fps = fps or frames.fps
        model = SaliencyModel(release, precision, threads)
        opened.callback(model.close)
        sinks = _open_sinks(frames, overlay, jsonl, maps)
        announced = min(filter(None, (frames.length, max_frames)), default=None)
        opened.enter_context(_stopping(stop))
        progress = opened.enter_context(_progress("run", "frames/s"))
        task = progress.add_task(escape(Path(frames.name).name), total=announced)
        summary = pipeline.run(frames, model, sinks, max_frames, lambda result: progress.advance(task), stop)
    if summary.interrupted:
        ERR.print(f"interrupted: kept the {summary.frames} frames that were done", highlight=False)
    elif announced and summary.frames < announced:
        ERR.print(
            f"warning: {frames.name} gave {summary.frames} readable frames of the {announced} it announces "
            "(cut or damaged?); their maps were kept",
            highlight=False,
            soft_wrap=True,
        )
    if as_json:
        document = {
            "source": frames.name,
            "release": model.release.name,
            "precision": model.precision,
        }
        print(json.dumps({**document, "engine": model.engine, **dataclasses.asdict(summary)}))
        return
    print(
        f"{summary.frames} frames in {summary.seconds:.2f} s ({summary.fps:.0f} fps), "
        f"{model.release.name} {model.precision}, {model.engine}\n"
        f"first map after {summary.first_map_s:.2f} s; decoded frame to map: "
        f"p50 {summary.latency_p50_ms:.2f} ms, p99 {summary.latency_p99_ms:.2f} ms"
    )
    for place in places:
        print(f"wrote {place}")


@click.command(epilog="Example: aerogaze profile skd-64 --precision fp32,int8 --json latency.json")
@click.argument("release", required=False)
@click.option("--precision", help="Comma-separated: fp32,fp16,int8 (default: all that the release has).")
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
    form: releases.Form | None,
    threads: int | None,
    runs: int,
    warm_up: int,
    json_path: Path | None,
) -> None:
    """Measure the latency of RELEASE per precision: the engine's call, batch 1."""
    opened = releases.load(release)
    form = form or (opened.forms() or releases.FORMS)[0]
    precisions = [p.strip() for p in precision.split(",")] if precision else list(opened.precisions(form))
    if not precisions:
        raise InputError(f"release {opened.name} has no graph in {form} form; try the other --form")
    if json_path:
        PendingFile(json_path).discard()  # what cannot be written is told now, not after the measuring
    with _progress("profile", "runs/s") as progress:
        task = progress.add_task(escape(opened.name), total=runs * len(precisions))
        results = profiler.profile(
            opened, precisions, form, threads, runs, warm_up, lambda n: progress.advance(task, n)
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
    table = Table(title=escape(f"{opened.name}, {form}, batch 1, {results[0].engine}"), title_justify="left")
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


def _open_sinks(frames: Source, overlay: Path | None, jsonl: Path | None, maps: Path | None) -> list[Sink]:
    sinks: list[Sink] = []
    try:
        if overlay:
            from edge.sinks.overlay import OverlaySink

            sinks.append(OverlaySink(overlay, frames))
        if jsonl:
            from edge.sinks.jsonl import JsonlSink

            sinks.append(JsonlSink(jsonl))
        if maps:
            from edge.sinks.maps import MapsSink

            sinks.append(MapsSink(maps))
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM set `stop`; the next one does what it always did."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def asked(number: int, where: object) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, asked)
    try:
        yield
    finally:
        restore()


def _keep_apart(source: Path, places: Sequence[Path]) -> None:
    """Refuse outputs that would replace the source, or one another."""
    taken = [source.resolve()]
    for place in places:
        if place.resolve() in taken:
            raise InputError(f"cannot write {place}: it is the source or another output; name another place")
        taken.append(place.resolve())


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} {self._unit}" if task.speed else "")


def _progress(word: str, unit: str) -> Progress:
    return Progress(
        TextColumn(f"{word} {{task.description}}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )
