"""Command `aerogaze run`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
from rich.markup import escape
from rich.progress import Progress, TaskID

from edge.cli.console import progress_bar, show_log
from edge.cli.json_log import log_option
from edge.cli.options import (
    FILE,
    FOLDER,
    FiniteRange,
    engine_option,
    gpu_wait_option,
    range_option,
)
from edge.cli.run.cameras import (
    SOURCE_VARIABLE,
    SourceType,
    parse_cameras,
    per_camera_option,
    warn_about_passwords,
)
from edge.cli.run.config_file import load_config_file
from edge.cli.run.open_camera import OpenCamera
from edge.cli.run.options import RunOptions
from edge.cli.run.outputs import Outputs
from edge.cli.run.report import report_run
from edge.cli.run.ros_arguments import RosCommand, ros_args_option
from edge.cli.run.sink_options import SinkOptions, with_sink_options
from edge.cli.stop_signals import stop_on_signals
from edge.core.errors import InputError
from edge.core.locks import device_lock
from edge.core.run_status import LOG, Status
from edge.inference.clip_window_runner import WINDOW_CHOICES
from edge.inference.saliency_model import SaliencyModel
from edge.pipeline.run import RunHooks, RunSummary, run_together
from edge.pipeline.systemd import SystemdNotifier
from edge.postprocessing.result import Result
from edge.release.manifest import MAX_BLUR
from edge.sources.factory import exclusive_devices, source_path

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


@click.command(
    cls=RosCommand,
    sections=SECTIONS,
    epilog="Example: aerogaze run synthetic:7 --max-frames 60 --overlay saliency.mp4",
)
@click.argument("source", type=SourceType(), envvar=SOURCE_VARIABLE, nargs=-1, required=True)
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
@per_camera_option(
    "--fps",
    FiniteRange(min=0.01, max=1000),
    "FPS",
    "Frame rate of the source, if it reports a wrong one (folder of images: 10).",
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
def run(source: tuple[str, ...], sink_options: Callable[..., SinkOptions], **values: Any) -> None:
    """Compute saliency maps of SOURCE, or of several sources side by side.

    \b
    SOURCE: a video file, a folder of images, bag:FLIGHT[#TOPIC],
    synthetic:SEED, or a camera: /dev/videoN, /dev/v4l/by-id/..., csi:N,
    gst:PIPELINE, rtsp://HOST/PATH, ros2:TOPIC. hw: before a video
    file or an rtsp:// address decodes it by hardware. NAME=SOURCE
    names a camera, and {camera} in the names of outputs stands for it.
    """
    sources = parse_cameras(source)
    all_options = [
        RunOptions.of_camera(each, sources, values, sink_options(each, sources)) for each in sources
    ]
    _check_options(all_options)
    warn_about_passwords(sources)
    stop = threading.Event()
    with ExitStack() as resources, ExitStack() as closing:
        resources.enter_context(show_log(LOG))
        cameras = _open_cameras(all_options, resources, closing)
        # Before the outputs are opened: from then on a signal must commit or remove them.
        resources.enter_context(stop_on_signals(stop))
        outputs = Outputs(len(cameras))
        for camera in cameras:
            camera.open_outputs(outputs)
        cv2.setNumThreads(1)  # measured on two x86 cores: two threads resize no faster and slow decoding down
        progress = resources.enter_context(progress_bar("run", "frames/s"))
        statuses = [camera.status for camera in cameras]
        notifier = SystemdNotifier(statuses)
        notifier.ready()
        outcomes = _run_cameras(cameras, progress, stop, _make_tick(notifier, statuses, stop))
    report_run(cameras, outcomes)


def _check_options(all_options: Sequence[RunOptions]) -> None:
    """Check the options of all cameras together.

    Raises:
        InputError: They do not fit together.
    """
    for options in all_options:
        if options.uses_stdout and options.as_json:
            raise InputError("--json and --jsonl - both write to the standard output: leave one out")
        if options.network.locate and not options.is_live:
            raise InputError(
                "--locate needs a live run, in which frames and poses come together: take a camera, or play "
                "the file with --realtime"
            )
    paths = [path for options in all_options for path in options.outputs.values() if path is not None]
    inputs = [source_path(options.camera.source) for options in all_options]
    used = [path.resolve() for path in inputs if path is not None]
    for path in paths:
        if path.resolve() in used:
            raise InputError(f"cannot write {path}: it is the source or another output; choose another path")
        used.append(path.resolve())


def _open_cameras(
    all_options: Sequence[RunOptions], resources: ExitStack, closing: ExitStack
) -> list[OpenCamera]:
    """Open the models and the sources. One engine serves all cameras if it can.

    Of several cameras at least one must be there: the others are opened again during the run.

    Args:
        all_options: Options of each camera.
        resources: Gets the locks of the devices.
        closing: Gets the cameras.

    Raises:
        InputError: No camera is there, or a file cannot be opened.
    """
    for options in all_options:
        for device in exclusive_devices(options.camera.source):
            resources.enter_context(device_lock(device))
    cameras: list[OpenCamera] = []
    first: SaliencyModel | None = None
    for options in all_options:
        model = (first.share() if first else None) or options.open_model()
        first = first or model
        cameras.append(OpenCamera(options, model, may_be_missing=len(all_options) > 1))
        closing.callback(cameras[-1].close)
        _check_gimbal(options, model)
    errors = [camera.error for camera in cameras if camera.error is not None]
    if len(errors) == len(cameras):
        raise errors[0]
    return cameras


def _check_gimbal(options: RunOptions, model: SaliencyModel) -> None:
    """Reject a gimbal without a calibrated score: it would also follow something in an empty scene."""
    if options.network.gimbal and model.release.score is None and options.min_score is None:
        raise InputError(
            f"--gimbal needs calibrated scores, but the release {model.release.name} has none: take another "
            "release, or give the share of the gaze from which the gimbal moves as --min-score"
        )


def _make_tick(
    notifier: SystemdNotifier, statuses: Sequence[Status], stop: threading.Event
) -> Callable[[], None]:
    """Return the function that notifies systemd regularly during the run."""

    def tick() -> None:
        notifier.tick()
        if stop.is_set() or all(status.state == "stopped" for status in statuses):
            notifier.stopping()

    return tick


def _run_cameras(
    cameras: Sequence[OpenCamera], progress: Progress, stop: threading.Event, tick: Callable[[], None]
) -> dict[str, RunSummary | BaseException]:
    """Run all cameras to their ends; one alone runs on this thread, and its error passes through."""
    runs: dict[str, Callable[[], RunSummary]] = {}
    for camera in cameras:
        title = ": ".join(filter(None, (camera.name, Path(camera.run_info.source).name)))
        task = progress.add_task(escape(title), total=camera.expected_frames)
        hooks = RunHooks(partial(_advance, progress, task), tick if len(cameras) == 1 else RunHooks.on_tick)
        runs[camera.name] = partial(camera.run, stop, hooks)
    return run_together(runs, tick) if len(cameras) > 1 else {name: run() for name, run in runs.items()}


def _advance(progress: Progress, task: TaskID, result: Result) -> None:
    progress.advance(task)
