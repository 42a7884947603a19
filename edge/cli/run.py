"""`aerogaze run`."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import click
import cv2
from rich.markup import escape

from edge.cli.config_file import load_config_file
from edge.cli.console import ERR_CONSOLE, progress_bar, show_log
from edge.cli.options import FiniteRange, NonEmptyCommand, engine_option
from edge.cli.sink_options import SinkOptions, open_network_sinks, with_sink_options
from edge.core.errors import CheckError, InputError
from edge.core.frames import Source
from edge.core.locks import device_lock
from edge.core.run_status import LOG, RunInfo, Status
from edge.inference.engine_selection import EngineChoice
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import LiveSettings, RunSummary, run_pipeline
from edge.pipeline.systemd import SystemdNotifier
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.release.manifest import MAX_BLUR
from edge.sinks.sink import Sink
from edge.sources.factory import exclusive_devices, is_camera, open_source

DEFAULT_THREADS = 1
"""Threads of inference in `run`: the students are small, and decoding and output want cores too."""
MAX_THREADS = 256
REPEATED_SIGNAL_S = 1.0
"""An interrupt as long after the first ends the run at once. `timeout` and others send two, hardly apart."""


@click.command(
    cls=NonEmptyCommand, epilog="Example: aerogaze run clip.mp4 --overlay saliency.mp4 --jsonl saliency.jsonl"
)
@click.argument("source")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=load_config_file,
    help="Take options from a TOML file: source = 'csi:0', jsonl = 'o.jsonl'. The command line wins.",
)
@click.option("--release", help="A release's folder or a shipped one's name (default: skd-64).")
@click.option("--precision", help="fp32, fp16 or int8 (default: the fastest this machine runs natively).")
@engine_option
@click.option(
    "--blur",
    type=FiniteRange(min=0, max=MAX_BLUR),
    help="How far maps are softened: a Gaussian's sigma in widths of the map (default: as released).",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option(
    "--fps",
    type=FiniteRange(min=0.01, max=1000),
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
    type=click.IntRange(1, MAX_THREADS),
    default=DEFAULT_THREADS,
    show_default=True,
    help="Threads of inference.",
)
@click.option(
    "--realtime/--every-frame",
    default=None,
    help="Newest frame first, as of a camera, or each in order, as of a file (default: by the source).",
)
@click.option(
    "--small-frames/--full-frames",
    "small",
    default=None,
    help="Let the source shrink frames where it can do so cheaply (default: in real time).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary as JSON.")
def run(
    source: str,
    release: str | None,
    precision: str | None,
    engine: EngineChoice,
    blur: float | None,
    max_frames: int | None,
    fps: float | None,
    overlay: Path | None,
    jsonl: Path | None,
    maps: Path | None,
    threads: int,
    realtime: bool | None,
    small: bool | None,
    as_json: bool,
    sink_options: SinkOptions,
) -> None:
    """Turn SOURCE into saliency maps.

    \b
    SOURCE: a video file, a folder of images, synthetic:SEED, or a camera:
    /dev/videoN, /dev/v4l/by-id/..., csi:N, gst:PIPELINE, rtsp://HOST/PATH
    """
    outputs = {"overlay": overlay, "jsonl": jsonl, "maps": maps}
    _keep_apart(Path(source), [place for place in outputs.values() if place])
    live = is_camera(source) if realtime is None else realtime
    stop = threading.Event()
    with ExitStack() as opened, ExitStack() as parts:
        for device in exclusive_devices(source):
            opened.enter_context(device_lock(device))

        def open_model() -> SaliencyModel:
            anew = SaliencyModel(release, precision, threads, engine)
            anew.blur = anew.blur if blur is None else blur
            return anew

        def open_frames() -> Source:
            return open_source(source, wanted, live, fps)

        model = open_model()
        parts.callback(model.close)
        shown = overlay is not None or sink_options.http is not None  # a person looks at the frames
        raw = model.release.raw_frame is not None  # the graph takes them as they are
        shrink = (live if small is None else small) and not (shown or raw)
        wanted = model.release.preprocessing.min_source_size if shrink else None
        frames = open_frames()
        parts.callback(frames.close)
        status = Status(RunInfo(model.release.name, model.precision, model.engine, frames.name))
        opened.enter_context(stop_on_signals(stop))  # from here on there are files to keep, or to remove
        sinks = _open_sinks(frames, overlay, jsonl, maps, sink_options, status)
        announced = min(filter(None, (frames.length, max_frames)), default=None)
        cv2.setNumThreads(1)  # seen on two x86 cores: two resize no faster, and take decoding's time
        progress = opened.enter_context(progress_bar("run", "frames/s"))
        opened.enter_context(show_log(LOG))
        task = progress.add_task(escape(Path(frames.name).name), total=announced)
        notifier = SystemdNotifier(status)

        def tick() -> None:
            notifier.tick()
            if stop.is_set() or status.state == "stopped":
                notifier.stopping()

        notifier.ready()
        if live:
            parts.pop_all()  # the run's own from here on
        summary = run_pipeline(
            frames,
            model,
            sinks,
            max_frames,
            lambda result: progress.advance(task),
            stop,
            status,
            LiveSettings(open_frames if is_camera(source) else None, open_model) if live else None,
            tick,
        )
    if summary.interrupted and not live:
        ERR_CONSOLE.print(f"interrupted: kept the {summary.frames} frames that were done", highlight=False)
    elif announced and not live and summary.frames < announced:
        ERR_CONSOLE.print(
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
        _check(summary)
        return
    print(
        f"{summary.frames} frames in {summary.seconds:.2f} s ({summary.fps:.0f} fps), "
        f"{model.release.name} {model.precision}, {model.engine}\n"
        f"first map after {summary.first_map_s:.2f} s; {'capture' if live else 'decoded frame'} to map: "
        f"p50 {summary.latency_p50_ms:.2f} ms, p99 {summary.latency_p99_ms:.2f} ms"
    )
    if live:
        print(f"live: {_live_in_words(summary)}")
    for kind, place in outputs.items():
        if f"sink:{kind}" in summary.wrote:
            print(f"wrote {place}")
    _check(summary)


def _live_in_words(summary: RunSummary) -> str:
    episodes = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.faults.items()))
    return f"{summary.dropped} frames dropped, {summary.held} maps held; faults: {episodes or 'none'}"


def _check(summary: RunSummary) -> None:
    if summary.failed:
        raise CheckError(f"not every output is whole: {'; '.join(summary.failed)}")


def _open_sinks(
    frames: Source,
    overlay: Path | None,
    jsonl: Path | None,
    maps: Path | None,
    options: SinkOptions,
    status: Status,
) -> list[Sink]:
    sinks: list[Sink] = []
    look = MapAnalyzer()
    try:
        if overlay:
            from edge.sinks.files.overlay_video import OverlaySink

            sinks.append(OverlaySink(overlay, frames, look))
        if jsonl:
            from edge.sinks.files.jsonl import JsonlSink

            sinks.append(JsonlSink(jsonl, look, options.camera))
        if maps:
            from edge.sinks.files.map_images import MapsSink

            sinks.append(MapsSink(maps))
        sinks += open_network_sinks(options, status, look)
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT, SIGTERM and a terminal's SIGHUP set `stop`; a second SIGINT ends the run at once.

    What keeps coming is no reason to lose a recording: SIGKILL is for that. It may come after the block, too:
    a run that was asked to end leaves its handlers there, which for `REPEATED_SIGNAL_S` take no notice.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    first_s, over = 0.0, False

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def asked(number: int, where: FrameType | None) -> None:
        nonlocal first_s
        now = time.monotonic()
        first_s = first_s or now
        stop.set()
        if now - first_s > REPEATED_SIGNAL_S and (over or number == signal.SIGINT):
            restore()
            signal.raise_signal(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup's
            signal.signal(number, asked)
    try:
        yield
    finally:
        over = True
        if not first_s:
            restore()


def _keep_apart(source: Path, places: Sequence[Path]) -> None:
    """Refuse outputs that would replace the source, or one another."""
    taken = [source.resolve()]
    for place in places:
        if place.resolve() in taken:
            raise InputError(f"cannot write {place}: it is the source or another output; name another place")
        taken.append(place.resolve())
