"""Options of `calibrate` and `sensitivity`: a release or an ONNX file, and footage for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.progress import Progress, TaskID, TimeRemainingColumn

from calibration.inputs.calibration_frames import MAX_WINDOWS, CalibrationFrames, read_frames
from calibration.inputs.image_format import COLOURS, LAYOUTS
from calibration.ranges.histogram import BEST, METHOD_CHOICES, MethodChoice
from edge.cli.console import progress_bar
from edge.cli.options import range_option
from edge.core.errors import InputError
from edge.core.frames import Frame, Source, find_damage
from edge.preprocessing.transform import Preprocessing
from edge.release.manifest import load_release
from edge.release.release import Release
from edge.sources.factory import open_source
from export.compare.input_request import InputRequest

if TYPE_CHECKING:
    # These import onnx, which only the work of a command needs.
    import onnx

    from calibration.inputs.onnx_import import ImportedGraph
    from export.graphs.int8_search import ProgressCallback

FRAMES_OPTION = click.option(
    "--frames",
    multiple=True,
    metavar="SOURCE",
    help="Footage to calibrate and verify on: a video, a folder of images, or synthetic:SEED. Repeatable.",
)
METHOD_OPTION = click.option(
    "--method",
    type=click.Choice(METHOD_CHOICES),
    default=BEST,
    show_default=True,
    help="Method that chooses the ranges of int8.",
)


def calibration_frames_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option for the number of windows, with a command's default."""
    return click.option(
        "--calibration-frames",
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        show_default=True,
        help="Most windows of frames to use. The most varied ones are chosen; a quarter is held out.",
    )


_FOOTAGE = (
    FRAMES_OPTION,
    range_option,
    calibration_frames_option(MAX_WINDOWS),
    METHOD_OPTION,
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        default=1,
        show_default=True,
        help="Threads of inference when latency is measured.",
    ),
)
_INPUT = (
    click.option("--layout", type=click.Choice(LAYOUTS), help="Input layout of an ONNX file, if ambiguous."),
    click.option("--size", metavar="WxH", help="Input size of an ONNX file, if dynamic."),
    click.option(
        "--colour",
        type=click.Choice(COLOURS),
        help="Channel order of an ONNX file's input. [default: rgb]",
    ),
    click.option(
        "--scale",
        metavar="LIST",
        help="Scale of an ONNX file's input, v * scale + offset: a number, or one per channel with commas. "
        "[default: 1/255]",
    ),
    click.option(
        "--offset",
        metavar="LIST",
        help="Offset of an ONNX file's input, v * scale + offset: a number, or one per channel with commas. "
        "[default: 0]",
    ),
    click.option(
        "--output",
        metavar="NAME",
        help="Output of an ONNX file that accuracy is measured on. [default: the first]",
    ),
)


@dataclass(frozen=True)
class TargetRequest(InputRequest):
    """Values of the options for a target: its input, the footage, and the calibration."""

    frames: tuple[str, ...]
    calibration_frames: int
    method: MethodChoice
    threads: int


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `TargetRequest` to a command, which gets them as `request`."""
    return _add_options(command, TargetRequest, (*_FOOTAGE, *_INPUT))


def input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `InputRequest` to a command, which gets them as `request`."""
    return _add_options(command, InputRequest, _INPUT)


def _add_options(
    command: Callable[..., None], kind: type[InputRequest], options: Sequence[Callable[..., Any]]
) -> Callable[..., None]:
    @wraps(command)
    def call(**values: Any) -> None:
        request = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(request=request, **values)

    wrapped: Callable[..., None] = call
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def open_target(name: str, request: TargetRequest) -> Release | ImportedGraph:
    """Open a release (a folder or a shipped name) or an ONNX file.

    Raises:
        InputError: There is no such target, it is not valid, or an option does not fit it.
    """
    from calibration.inputs.onnx_import import DEFAULT_OFFSET, DEFAULT_SCALE, import_graph

    path = Path(name)
    if not path.is_file() and path.suffix.lower() != ".onnx":
        if option := request.first_option():
            raise InputError(f"{option} is for ONNX files; a release states it itself: leave it out")
        release = load_release(name)
        if release.raw_frame is not None:
            raise InputError(
                f"release {release.name} takes raw frames, and its ranges are those of the graphs without "
                "fused preprocessing; expected a release of prepared frames: calibrate that one, then fuse "
                "it with export --fuse-preprocess"
            )
        return release
    layout, size, colour, scale, offset = request.parse_image()
    return import_graph(
        path, layout, size, colour or "rgb", scale or DEFAULT_SCALE, offset or DEFAULT_OFFSET, request.output
    )


class _ObservedSource:
    """Source that calls a function for every frame read from it."""

    def __init__(self, source: Source, on_frame: Callable[[], None]) -> None:
        self._source, self._on_frame = source, on_frame
        self.name, self.fps, self.length = source.name, source.fps, source.length
        self.width, self.height = source.width, source.height

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._on_frame()
            yield frame

    @property
    def damage(self) -> tuple[str, ...]:
        return find_damage(self._source)

    def close(self) -> None:
        self._source.close()


def read_footage(
    target: Release | ImportedGraph, request: TargetRequest, progress: Progress
) -> CalibrationFrames:
    """Read the requested footage at the size of the target.

    Raises:
        InputError: As `read_frames`.
    """
    from export.release.recalibrate import window_length

    if isinstance(target, Release):
        preprocessing, length = target.preprocessing, window_length(target)
    else:
        preprocessing, length = Preprocessing(target.image.width, target.image.height), 1
    with ExitStack() as stack:
        sources: list[Source] = []
        for name in request.frames:
            sources.append(open_source(name))
            stack.callback(sources[-1].close)
        lengths = [source.length for source in sources]
        total = None if None in lengths else sum(filter(None, lengths))
        task = progress.add_task("reading frames", total=total)
        observed = [_ObservedSource(source, lambda: progress.advance(task)) for source in sources]
        return read_frames(observed, preprocessing, length, request.calibration_frames)


@contextmanager
def step_progress() -> Iterator[tuple[Progress, ProgressCallback]]:
    """Show a progress bar with a line per step, and yield it with the function that advances a step."""
    with progress_bar(columns=[TimeRemainingColumn()], spinner=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(step: str, units: int, total: int | None) -> None:
            is_restart = step in tasks and not units and progress.tasks[tasks[step]].finished
            if step not in tasks or is_restart:
                tasks[step] = progress.add_task(escape(step), total=total)
            progress.update(tasks[step], advance=units)

        yield progress, advance


def tensorrt_warnings(model: onnx.ModelProto) -> list[str]:
    """Return why TensorRT for RTX would reject a graph; nothing if it is not installed."""
    from edge.inference.tensorrt.api import find_unsupported_node

    with suppress(InputError):
        reason = find_unsupported_node(model.SerializeToString(), "rtx")
        if reason:
            return [f"TensorRT cannot parse the graph ({reason}): the result runs on ONNX Runtime only"]
    return []


def warn(warnings: Sequence[str]) -> None:
    """Print each warning once, one per line, on standard error."""
    for warning in dict.fromkeys(warnings):
        print(f"warning: {warning}", file=sys.stderr)
