"""Command `aerogaze run`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
from rich.markup import escape

from edge.cli.config_file import load_config_file
from edge.cli.console import ERR_CONSOLE, progress_bar, show_log
from edge.cli.json_log import log_option
from edge.cli.options import (
    FILE,
    FOLDER,
    FiniteRange,
    engine_option,
    gpu_wait_option,
    range_option,
)
from edge.cli.ros_arguments import RosCommand, ros_args_option
from edge.cli.run_report import check_outputs, print_json, print_text, print_warnings
from edge.cli.sink_options import SinkOptions, make_locator, open_network_sinks, with_sink_options
from edge.cli.stop_signals import stop_on_signals
from edge.core.errors import InputError
from edge.core.frames import Source, find_damage
from edge.core.locks import device_lock
from edge.core.run_status import LOG, RunInfo, Status
from edge.inference.clip_window_runner import WINDOW_CHOICES, WindowChoice
from edge.inference.engine_selection import EngineChoice
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, RunSummary, run_pipeline
from edge.pipeline.supervisor import LiveSettings
from edge.pipeline.systemd import SystemdNotifier
from edge.postprocessing.map_analysis import MapAnalyzer
from edge.release.manifest import MAX_BLUR
from edge.sinks.files.output_stream import is_stream, standard_stream
from edge.sinks.sink import Sink
from edge.sources.factory import exclusive_devices, is_camera, open_source, source_path
from edge.sources.public_name import CREDENTIALS_VARIABLE, has_password

SOURCE_VARIABLE = "AEROGAZE_SOURCE"
"""Environment variable that names the source, so that its password is not in the list of processes."""
DEFAULT_THREADS = 1
"""Threads of inference: the students are small, and decoding and output need cores, too."""
MAX_THREADS = 256


SECTIONS = {
    "Input": ["config", "max_frames", "fps", "realtime", "small", "pixel_range", "fov", "mount"],
    "Model": ["release", "precision", "engine", "threads", "gpu_wait", "window", "blur", "min_score"],
    "Output": ["overlay", "jsonl", "maps", "mcap", "rtp", "as_json", "log"],
    "ROS 2": ["ros2", "ros_args"],
    "MAVLink": ["mavlink", "mavlink_system", "mavlink_key", "gimbal", "on_gimbal"],
    "Where on earth": ["locate", "ground_m", "camera_delay_s", "geojson"],
    "Web": ["http", "http_token"],
}
"""Options of the command under the headings of its help."""


@dataclass(frozen=True)
class RunOptions:
    """Values of the options of `aerogaze run`; None means the default.

    Attributes:
        source: Name of the source of frames.
        release: Folder of a release, or the name of a shipped one.
        precision: Precision of the graph.
        engine: Inference engine.
        window: How frames become the clips of a network that takes several.
        blur: Sigma of the Gaussian that blurs the maps, in widths of the map.
        min_score: Score from which a region is reported.
        max_frames: Number of frames after which the run ends.
        fps: Frame rate of the source.
        overlay: Path of the overlay video.
        jsonl: Path of the JSON lines.
        maps: Path of the folder of maps.
        mcap: Path of the recording for Foxglove.
        ros2: Namespace of the ROS 2 topics; None for none.
        threads: Threads of inference.
        realtime: Run live, on the newest frame, instead of on every frame.
        small: Let the source shrink its frames.
        as_json: Print the summary as JSON.
        network: Options of the camera's angles, places, and the sinks that use the network.
    """

    source: str
    release: str | None
    precision: str | None
    engine: EngineChoice
    window: WindowChoice | None
    blur: float | None
    min_score: float | None
    max_frames: int | None
    fps: float | None
    overlay: Path | None
    jsonl: Path | None
    maps: Path | None
    mcap: Path | None
    ros2: str | None
    threads: int
    realtime: bool | None
    small: bool | None
    as_json: bool
    network: SinkOptions

    @property
    def is_live(self) -> bool:
        """Whether the run is live."""
        return is_camera(self.source) if self.realtime is None else self.realtime

    @property
    def outputs(self) -> dict[str, Path | None]:
        """Path of each output by the name of its sink."""
        files = {"overlay": self.recorded_overlay, "jsonl": self.jsonl, "maps": self.maps, "mcap": self.mcap}
        return {**files, "geojson": self.network.geojson}

    @property
    def uses_stdout(self) -> bool:
        """Whether JSON lines go to the standard output, so that nothing else may."""
        return self.jsonl is not None and standard_stream(self.jsonl) == 1

    @property
    def recorded_overlay(self) -> Path | None:
        """Path of the overlay video. A live run records Matroska: a killed one leaves an MP4 unreadable."""
        if self.overlay is not None and self.is_live and self.overlay.suffix.lower() == ".mp4":
            return self.overlay.with_suffix(".mkv")
        return self.overlay

    def open_model(self) -> SaliencyModel:
        """Open the model."""
        model = SaliencyModel(self.release, self.precision, self.threads, self.engine, self.window)
        if self.blur is not None:
            model.blur = self.blur
        return model

    def open_source(self, min_size: tuple[int, int] | None) -> Source:
        """Open the source, which may shrink its frames to `min_size` (width, height)."""
        return open_source(self.source, min_size, self.is_live, self.fps)

    def min_source_size(self, model: SaliencyModel) -> tuple[int, int] | None:
        """Return the size to which the source may shrink its frames; None for full frames."""
        is_viewed = (
            self.overlay is not None
            or self.mcap is not None
            or self.ros2 is not None
            or self.network.is_viewed
        )
        takes_raw_frames = model.release.raw_frame is not None
        may_shrink = self.is_live if self.small is None else self.small
        if not may_shrink or is_viewed or takes_raw_frames:
            return None
        return model.release.preprocessing.min_source_size


@click.command(
    cls=RosCommand,
    sections=SECTIONS,
    epilog="Example: aerogaze run synthetic:7 --max-frames 60 --overlay saliency.mp4",
)
@click.argument("source", envvar=SOURCE_VARIABLE)
@click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=load_config_file,
    help="Read options from a TOML file: source = 'csi:0', jsonl = 'o.jsonl'. The command line wins.",
)
@click.option(
    "--release",
    metavar="DIR",
    help="Folder of a release, or the name of a shipped one (default: skd-64-motion).",
)
@click.option(
    "--precision", metavar="NAME", help="fp32, fp16 or int8 (default: the fastest that runs natively here)."
)
@engine_option
@gpu_wait_option
@click.option(
    "--window",
    type=click.Choice(WINDOW_CHOICES),
    help="Windows of a network that gives a map for each frame of a window: blocks (default: each frame is "
    "computed once, maps come late), or slide by one frame (the newest map, computed for each frame).",
)
@click.option(
    "--blur",
    type=FiniteRange(min=0, max=MAX_BLUR),
    metavar="SIGMA",
    help="Sigma of the Gaussian that blurs the maps, in widths of the map (default: from the release).",
)
@click.option(
    "--min-score",
    type=FiniteRange(min=0, max=1),
    metavar="SCORE",
    help="Score from which a region is reported (default: from the release).",
)
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="Stop after this many frames.")
@click.option(
    "--fps",
    type=FiniteRange(min=0.01, max=1000),
    metavar="FPS",
    help="Frame rate of the source, if it reports a wrong one (folder of images: 10).",
)
@range_option
@click.option("--overlay", type=FILE, help="Write a video of the frames under their saliency.")
@click.option(
    "--jsonl",
    type=FILE,
    help="Write one JSON object per frame: time, latency, peaks, regions. - is the standard output.",
)
@click.option(
    "--maps",
    type=FOLDER,
    help="Write a folder with one 16-bit PNG map per frame.",
)
@click.option("--mcap", type=FILE, help="Record overlay, map, regions and metrics for Foxglove.")
@click.option(
    "--ros2",
    is_flag=False,
    flag_value="saliency",
    metavar="[NAMESPACE]",
    help="Publish map, overlay, regions and diagnostics to ROS 2 (default namespace: saliency).",
)
@ros_args_option
@with_sink_options
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    metavar="N",
    default=DEFAULT_THREADS,
    show_default=True,
    help="Threads of inference.",
)
@click.option(
    "--realtime/--every-frame",
    default=None,
    help="Run on the newest frame or on every frame (default: newest for cameras, every for files).",
)
@click.option(
    "--small-frames/--full-frames",
    "small",
    default=None,
    help="Let the source shrink frames where that is cheap (default: in real time).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@log_option
def run(sink_options: SinkOptions, **values: Any) -> None:
    """Compute saliency maps of SOURCE.

    \b
    SOURCE: a video file, a folder of images, bag:FLIGHT[#TOPIC],
    synthetic:SEED, or a camera: /dev/videoN, /dev/v4l/by-id/..., csi:N,
    gst:PIPELINE, rtsp://HOST/PATH, ros2:TOPIC. hw: before a video
    file or an rtsp:// address decodes it by hardware.
    """
    options = RunOptions(**values, network=sink_options)
    if options.uses_stdout and options.as_json:
        raise InputError("--json and --jsonl - both write to the standard output: leave one out")
    if options.network.locate and not options.is_live:
        raise InputError(
            "--locate needs a live run, in which frames and poses come together: take a camera, or play the "
            "file with --realtime"
        )
    _warn_about_password(options.source)
    _check_paths_differ(source_path(options.source), filter(None, options.outputs.values()))
    with ExitStack() as resources, ExitStack() as parts:
        for device in exclusive_devices(options.source):
            resources.enter_context(device_lock(device))
        model = options.open_model()
        parts.callback(model.close)
        _check_gimbal(options, model)
        open_frames = partial(options.open_source, options.min_source_size(model))
        frames = open_frames()
        parts.callback(frames.close)
        run_info = RunInfo(model.release.name, model.precision, model.engine, frames.name)
        expected_frames = min(filter(None, (frames.length, options.max_frames)), default=None)
        status, stop = Status(run_info), threading.Event()
        # Before the outputs are opened: from then on a signal must commit or remove them.
        resources.enter_context(stop_on_signals(stop))
        _recover_outputs(options)
        sinks = _open_sinks(options, frames, status, MapAnalyzer(model.release.score, options.min_score))
        cv2.setNumThreads(1)  # measured on two x86 cores: two threads resize no faster and slow decoding down
        progress = resources.enter_context(progress_bar("run", "frames/s"))
        resources.enter_context(show_log(LOG))
        task = progress.add_task(escape(Path(frames.name).name), total=expected_frames)
        notifier = SystemdNotifier(status)
        hooks = RunHooks(lambda result: progress.advance(task), _make_tick(notifier, status, stop))
        notifier.ready()
        live = None
        if options.is_live:
            parts.pop_all()  # a live run closes its source and model itself
            live = LiveSettings(open_frames if is_camera(options.source) else None, options.open_model)
        summary = run_pipeline(
            frames,
            model,
            sinks,
            max_frames=options.max_frames,
            live=live,
            status=status,
            stop=stop,
            hooks=hooks,
        )
    _report(summary, run_info, find_damage(frames), options)


def _warn_about_password(source: str) -> None:
    """Warn if the command line holds a password, which all users of the machine can see."""
    place = click.get_current_context().get_parameter_source("source")
    if place is click.core.ParameterSource.COMMANDLINE and is_camera(source) and has_password(source):
        ERR_CONSOLE.print(
            "warning: other users can see the password in the list of processes; give it as "
            f"{CREDENTIALS_VARIABLE}=USER:PASSWORD in the environment, or the source in --config or "
            f"{SOURCE_VARIABLE}",
            highlight=False,
            soft_wrap=True,
        )


def _check_gimbal(options: RunOptions, model: SaliencyModel) -> None:
    """Reject a gimbal without a calibrated score: it would also follow something in an empty scene."""
    if options.network.gimbal and model.release.score is None and options.min_score is None:
        raise InputError(
            f"--gimbal needs calibrated scores, but the release {model.release.name} has none: take another "
            "release, or give the share of the gaze from which the gimbal moves as --min-score"
        )


def _recover_outputs(options: RunOptions) -> None:
    """Name what killed runs left of the same outputs, and a recording whose name differs from the option."""
    from edge.sinks.files.recovery import recover_outputs

    outputs = [path for path in options.outputs.values() if path is not None and not is_stream(path)]
    lines = [line for path in outputs for line in recover_outputs(path)]
    if options.overlay != options.recorded_overlay:
        lines.append(f"recording to {options.recorded_overlay}: a killed run would leave an MP4 unreadable")
    for line in lines:
        ERR_CONSOLE.print(line, highlight=False, soft_wrap=True, markup=False)


def _make_tick(notifier: SystemdNotifier, status: Status, stop: threading.Event) -> Callable[[], None]:
    """Return the function that notifies systemd regularly during the run."""

    def tick() -> None:
        notifier.tick()
        if stop.is_set() or status.state == "stopped":
            notifier.stopping()

    return tick


def _report(summary: RunSummary, run_info: RunInfo, damage: Sequence[str], options: RunOptions) -> None:
    print_warnings(summary, damage, options.is_live)
    if options.as_json:
        print_json(summary, run_info, damage)
    else:
        with redirect_stdout(sys.stderr) if options.uses_stdout else nullcontext():
            print_text(summary, run_info, options.is_live, options.outputs)
    check_outputs(summary)


def _open_sinks(options: RunOptions, frames: Source, status: Status, transform: MapAnalyzer) -> list[Sink]:
    """Open all sinks; they share one map analyzer."""
    sinks: list[Sink] = []
    locator = make_locator(options.network)
    try:
        if options.recorded_overlay:
            from edge.sinks.files.overlay_video import OverlaySink

            sinks.append(OverlaySink(options.recorded_overlay, frames, transform, options.is_live))
        if options.jsonl:
            from edge.sinks.files.jsonl import JsonlSink

            sinks.append(JsonlSink(options.jsonl, transform, options.network.camera, locator))
        if options.maps:
            from edge.sinks.files.map_images import MapsSink

            sinks.append(MapsSink(options.maps))
        if options.mcap:
            from edge.sinks.files.mcap_recording import McapSink

            sinks.append(McapSink(options.mcap, frames, status, transform, options.is_live))
        if options.ros2:
            from edge.sinks.ros2.sink import Ros2Sink

            sinks.append(Ros2Sink(options.ros2, frames, status, transform, options.network.camera))
        if options.network.geojson and locator:
            from edge.sinks.files.geojson import GeojsonSink

            sinks.append(GeojsonSink(options.network.geojson, transform, locator))
        sinks += open_network_sinks(options.network, frames, status, transform, locator)
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks


def _check_paths_differ(source: Path | None, outputs: Iterable[Path]) -> None:
    """Reject outputs that would replace the source or each other."""
    used = [] if source is None else [source.resolve()]
    for path in outputs:
        if path.resolve() in used:
            raise InputError(f"cannot write {path}: it is the source or another output; choose another path")
        used.append(path.resolve())
