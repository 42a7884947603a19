"""`aerogaze run`."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.markup import escape

from edge import pipeline
from edge.console import ERR, progress_bar
from edge.engines import Choice
from edge.errors import InputError
from edge.frames import Source
from edge.model import SaliencyModel
from edge.observer import Observer
from edge.options import engine_option
from edge.sink_options import SinkOptions, open_sinks, with_sink_options
from edge.sinks import Result, Sink
from edge.sources import open_source
from edge.status import About, Status

RUN_THREADS = 1
"""Threads of inference in `run`: the students are small, and decoding and output want cores too."""


@click.command(epilog="Example: aerogaze run clip.mp4 --overlay saliency.mp4 --jsonl saliency.jsonl")
@click.argument("source")
@click.option("--release", help="A release's folder or a shipped one's name (default: skd-64).")
@click.option("--precision", help="fp32, fp16 or int8 (default: the fastest this machine runs natively).")
@engine_option
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
    help="Write a JSON object a frame: time, latency, peaks, regions.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Write a folder of 16-bit PNG maps, one a frame.",
)
@with_sink_options
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
    engine: Choice,
    max_frames: int | None,
    fps: float | None,
    overlay: Path | None,
    jsonl: Path | None,
    maps: Path | None,
    threads: int,
    as_json: bool,
    sink_options: SinkOptions,
) -> None:
    """Turn SOURCE into saliency maps: a video file, a folder of images, or synthetic:SEED."""
    places = [place for place in (overlay, jsonl, maps) if place]
    _keep_apart(Path(source), places)
    stop = threading.Event()
    with ExitStack() as opened:
        frames = open_source(source)
        opened.callback(frames.close)
        frames.fps = fps or frames.fps
        model = SaliencyModel(release, precision, threads, engine)
        opened.callback(model.close)
        status = Status(About(model.release.name, model.precision, model.engine, frames.name))
        sinks = _open_sinks(frames, overlay, jsonl, maps, sink_options, status)
        announced = min(filter(None, (frames.length, max_frames)), default=None)
        opened.enter_context(_stopping(stop))
        progress = opened.enter_context(progress_bar("run", "frames/s"))
        task = progress.add_task(escape(Path(frames.name).name), total=announced)

        def counted(result: Result) -> None:
            status.enter("running")
            status.result(result.latency_ms)
            progress.advance(task)

        summary = pipeline.run(frames, model, sinks, max_frames, counted, stop)
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


def _open_sinks(
    frames: Source,
    overlay: Path | None,
    jsonl: Path | None,
    maps: Path | None,
    options: SinkOptions,
    status: Status,
) -> list[Sink]:
    sinks: list[Sink] = []
    look = Observer()
    try:
        if overlay:
            from edge.sinks.overlay import OverlaySink

            sinks.append(OverlaySink(overlay, frames, look))
        if jsonl:
            from edge.sinks.jsonl import JsonlSink

            sinks.append(JsonlSink(jsonl, look, options.camera))
        if maps:
            from edge.sinks.maps import MapsSink

            sinks.append(MapsSink(maps))
        sinks += open_sinks(options, status, look)
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
