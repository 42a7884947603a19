"""What `calibrate` and `sensitivity` take: a release or anybody's ONNX file, and footage for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.progress import Progress

from calibration.inputs.calibration_frames import MOST, CalibrationFrames, read_frames
from calibration.inputs.onnx_import import (
    COLOURS,
    LAYOUTS,
    OFFSET,
    SCALE,
    UserGraph,
    open_graph,
)
from calibration.search.method_selection import BEST, CHOICES, Choosing
from edge.cli.console import progress_bar
from edge.core.errors import InputError
from edge.core.frames import Frame, Source
from edge.preprocessing.transform import Preprocessing
from edge.release.manifest import load_release
from edge.release.manifest import Release
from edge.sources.factory import open_source
from export.compare.input_request import InputRequest
from export.release.recalibrate import window_length

_FOOTAGE = (
    click.option(
        "--frames",
        multiple=True,
        help="Footage: a video, a folder of images, or synthetic:SEED. Once or more.",
    ),
    click.option(
        "--calibration-frames",
        type=click.IntRange(min=1),
        default=MOST,
        show_default=True,
        help="Windows of frames at most, chosen for variety.",
    ),
    click.option(
        "--method",
        type=click.Choice(CHOICES),
        default=BEST,
        show_default=True,
        help="How ranges are chosen.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Threads of inference that latency is measured with.",
    ),
)
_INPUT = (
    click.option("--layout", type=click.Choice(LAYOUTS), help="Of an ONNX file's input, if not clear."),
    click.option("--size", help="WIDTHxHEIGHT of an ONNX file's input, if it leaves it open."),
    click.option(
        "--colour",
        type=click.Choice(COLOURS),
        help="Order of an ONNX file's channels. [default: rgb]",
    ),
    click.option(
        "--scale",
        help="Of an ONNX file's input, v * scale + offset: a number, or one a channel with commas. "
        "[default: 1/255]",
    ),
    click.option("--offset", help="As --scale. [default: 0]"),
    click.option("--output", help="The ONNX file's output that is judged (default: its first)."),
)


@dataclass(frozen=True)
class TargetRequest(InputRequest):
    """What a user says on the command line of a target, of footage for it and of how it is used."""

    frames: tuple[str, ...]
    calibration_frames: int
    method: Choosing
    threads: int


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `TargetRequest`, and hand them over as `asked`."""
    return _gathering(command, TargetRequest, (*_FOOTAGE, *_INPUT))


def input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `InputRequest`, and hand them over as `asked`."""
    return _gathering(command, InputRequest, _INPUT)


def _gathering(
    command: Callable[..., None], kind: type[InputRequest], options: Sequence[Callable[..., Any]]
) -> Callable[..., None]:
    @wraps(command)
    def gathered(**given: Any) -> None:
        asked = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(asked=asked, **given)

    wrapped: Callable[..., None] = gathered
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def open_target(name: str, asked: TargetRequest) -> Release | UserGraph:
    """Open a release's folder, a shipped release's name, or an ONNX file.

    Raises:
        InputError: it is none, or no sound one; options that do not fit it.
    """
    path = Path(name)
    if not path.is_file() and path.suffix.lower() != ".onnx":
        if asked.said():
            raise InputError(f"{asked.said()} is for ONNX files; a release says it itself: leave it out")
        release = load_release(name)
        if release.raw_frame is not None:
            raise InputError(
                f"release {release.name} takes raw frames, and its ranges are those of the graphs without; "
                "calibrate the student's release before --fuse-preprocess"
            )
        if release.clip is not None:
            raise InputError(f"release {release.name} takes clips, which are exported in fp32 and fp16 only")
        return release
    layout, size, colour, scale, offset = asked.image()
    return open_graph(path, layout, size, colour or "rgb", scale or SCALE, offset or OFFSET, asked.output)


class _Told:
    """A source that tells of every frame that was read from it."""

    def __init__(self, source: Source, on_frame: Callable[[], None]) -> None:
        self._source, self._on_frame = source, on_frame
        self.name, self.fps, self.length = source.name, source.fps, source.length
        self.width, self.height = source.width, source.height

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            self._on_frame()
            yield frame

    def close(self) -> None:
        self._source.close()


def read_footage(target: Release | UserGraph, asked: TargetRequest, progress: Progress) -> CalibrationFrames:
    """Read the footage that was asked for at the target's size.

    Raises:
        InputError: as `read_frames`.
    """
    if isinstance(target, Release):
        preprocessing, length = target.preprocessing, window_length(target)
    else:
        preprocessing, length = Preprocessing(target.image.width, target.image.height), 1
    with ExitStack() as opened:
        sources: list[Source] = []
        for name in asked.frames:
            sources.append(open_source(name))
            opened.callback(sources[-1].close)
        lengths = [source.length for source in sources]
        known = None if None in lengths else sum(filter(None, lengths))
        task = progress.add_task("reading frames", total=known)
        told = [_Told(source, lambda: progress.advance(task)) for source in sources]
        return read_frames(told, preprocessing, length, asked.calibration_frames)


@contextmanager
def step_progress() -> Iterator[tuple[Progress, Callable[[str, int, int | None], None]]]:
    """Give a bar, and what moves it on: of what, how many more, of how many."""
    with progress_bar(spinner=True) as progress:
        tasks: dict[str, Any] = {}

        def step(what: str, more: int, total: int | None) -> None:
            if what not in tasks or (not more and progress.tasks[tasks[what]].finished):
                tasks[what] = progress.add_task(escape(what), total=total)
            progress.update(tasks[what], advance=more)

        yield progress, step


def warn(doubts: Sequence[str]) -> None:
    """Say what is odd about the footage, a line each."""
    for doubt in dict.fromkeys(doubts):
        print(f"warning: {doubt}", file=sys.stderr)
