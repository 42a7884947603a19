"""`aerogaze annotate`."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import click

from edge.cli.console import print_next_step, progress_bar
from edge.cli.options import FolderType, NonEmptyCommand, range_option
from edge.cli.stop_signals import stop_on_signals
from edge.core.errors import InputError
from edge.core.locks import device_lock, writer_lock
from edge.sources.factory import exclusive_devices, is_camera, open_source
from edge.sources.public_name import public_name
from trainer.annotation.clip import AnnotatedClip, create_clip, load_clip
from trainer.annotation.server import AnnotationServer

DEFAULT_FRAMES = 300
FRAME_FOLDERS = ("frames", "images")
"""Folders that data sets have in each clip: the name of the clip is that of the folder above."""


@click.command(cls=NonEmptyCommand, epilog="Example: aerogaze annotate flight.mp4 --every 5 --out boxes")
@click.argument("source")
@range_option
@click.option(
    "--out",
    type=FolderType(file_okay=False),
    default="boxes",
    show_default=True,
    help="Folder of the data set; the clip becomes a folder in it.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    default=5,
    show_default=True,
    help="Stop at every Nth frame; boxes in between are interpolated.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1, max=999_999),
    metavar="N",
    help=f"Take this many first frames of the source (default: {DEFAULT_FRAMES}).",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=0,
    help="Port of the page on this machine (default: a free one).",
)
def annotate(source: str, out: Path, every: int, max_frames: int | None, port: int) -> None:
    """Draw boxes around a target in a page on this machine.

    SOURCE is a video, a folder of images, a synthetic flight or a camera. The command writes its frames and
    the boxes as a data set of kind "boxes", on which `aerogaze evaluate` scores maps. Each change is saved at
    once, and the same command continues where it ended. Ctrl-C ends it.
    """
    folder = out / clip_name(source)
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_remove_if_empty(out))
        stack.enter_context(writer_lock(folder))
        clip = _open_clip(folder, source, max_frames)
        stack.enter_context(stop_on_signals(stop))
        server = stack.enter_context(closing(AnnotationServer(clip, every, port)))
        print(f"{clip.info.frames} frames in {folder}, {len(clip.annotated)} of them annotated", flush=True)
        print(f"open {server.url}", flush=True)
        print("Ctrl-C ends; each change is saved at once", flush=True)
        stop.wait()
    _report(clip, out)


@contextmanager
def _remove_if_empty(folder: Path) -> Iterator[None]:
    """Remove a folder after the block if it is empty, so that a mistyped source leaves none."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def clip_name(source: str) -> str:
    """Return the name of a clip's folder: the name of the file or folder, or the letters of the source."""
    path = Path(source)
    if is_camera(source) or not path.exists():
        name = public_name(source)
    else:
        path = path.resolve()
        if path.is_dir() and path.name in FRAME_FOLDERS:
            path = path.parent
        name = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or "clip"


def _open_clip(folder: Path, source: str, max_frames: int | None) -> AnnotatedClip:
    path = Path(source)
    name = str(path.resolve()) if path.exists() and not is_camera(source) else public_name(source)
    clip = load_clip(folder)
    if clip is None:
        return _create_clip(folder, source, name, max_frames or DEFAULT_FRAMES)
    if clip.info.source != name and public_name(clip.info.source) != name:  # older names had masked passwords
        raise InputError(f"{folder} holds frames of {public_name(clip.info.source)}; choose another --out")
    if max_frames not in (None, clip.info.frames):
        raise InputError(
            f"{folder} holds {clip.info.frames} frames; leave out --max-frames to continue, or choose "
            "another --out"
        )
    clip.write_boxes()  # the last run may have ended between the two files
    return clip


def _create_clip(folder: Path, source: str, name: str, max_frames: int) -> AnnotatedClip:
    with ExitStack() as stack:
        for device in exclusive_devices(source):
            stack.enter_context(device_lock(device))
        opened = stack.enter_context(closing(open_source(source)))
        bar = stack.enter_context(progress_bar("annotate"))
        task = bar.add_task("frames", total=min(max_frames, opened.length or max_frames))
        return create_clip(folder, name, opened, max_frames, lambda: bar.advance(task))


def _report(clip: AnnotatedClip, out: Path) -> None:
    boxes = sum(box is not None for box in clip.boxes())
    count = len(clip.annotated)
    print(f"{count} frame{'s' * (count != 1)} annotated, {boxes} of {clip.info.frames} frames have a box")
    print(f"wrote {clip.boxes_path}")
    if boxes:
        print_next_step(
            f"aerogaze evaluate skd-64 --dataset boxes --root {shlex.quote(str(out))} --fps {clip.info.fps:g}"
        )
