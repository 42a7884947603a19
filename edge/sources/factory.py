"""Sources, a file per kind; each is imported when it is asked for."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edge.core.atomic_files import checked_name
from edge.core.errors import InputError
from edge.core.frames import Source

SYNTHETIC = "synthetic:"
CAMERAS = ("/dev/video", "/dev/v4l/", "v4l2:", "csi:", "gst:", "rtsp://", "rtsps://")
FIRST = {"v4l2src": "device=/dev/video0", "nvarguscamerasrc": "sensor-id=0"}
"""What GStreamer's cameras take where no other is named."""


def is_camera(name: str) -> bool:
    """Say whether a name is of a source that gives frames when it wants to."""
    return name.startswith(CAMERAS)


def open_source(
    name: str, wanted: tuple[int, int] | None = None, live: bool | None = None, fps: float | None = None
) -> Source:
    """Open a video file, a folder of images, `synthetic:SEED[:WIDTHxHEIGHT[:FRAMES]]`, or a camera.

    Cameras are `/dev/videoN`, `/dev/v4l/by-id/...` or `v4l2:N`, `csi:N`, `gst:PIPELINE` and `rtsp://...`.
    `wanted`: width and height that are enough; who can give smaller frames cheaply then does, and says so by
    `Frame.scale`. `live`: in real time, newest first (None: as is a camera's way, and not a file's). `fps`:
    its frame rate, if it is not what it says.

    Raises:
        InputError: missing, empty, or not readable as what it is.
    """
    name, camera = _device(name), is_camera(name)
    source = _open_camera(name, wanted, live is not False) if camera else _open_file(name, wanted)
    source.fps = fps or source.fps
    if live and not camera:
        from edge.sources.realtime_playback import PacedSource

        return PacedSource(source, fps)
    return source


def exclusive_devices(name: str) -> list[str]:
    """Return the devices that only one run at a time can read, of a source's name."""
    name = _device(name)
    if not name.startswith(("/dev/video", "v4l2:", "csi:", "gst:")):
        return []
    if not name.startswith("gst:"):  # without its mode
        name = re.sub(r"^v4l2:(\d+)", r"/dev/video\1", name)
        name = re.sub(r"^(/dev/video\d+).*", r"\1", name)
    for element, setting in FIRST.items():  # of which none was named
        name = re.sub(rf"\b{element}\b(?![^!]*\b{setting.partition('=')[0]}=)", f"{element} {setting}", name)
    found = [os.path.realpath(path) for path in re.findall(r"/dev/[^\s\"'!;,]+", name)]
    sensors = re.findall(r"^csi:(\d+)|\bsensor-id=(\d+)", name)
    return found + [f"csi:{first or second}" for first, second in sensors]


def _device(name: str) -> str:
    """Return what a camera is called here, of a name that it keeps: /dev/v4l/by-id/..., with its mode."""
    found = re.fullmatch(r"(/dev/v4l/.+?)(:\d+x\d+(?:@\d+)?)?", name)
    return f"{os.path.realpath(found[1])}{found[2] or ''}" if found else name


def _open_camera(name: str, wanted: tuple[int, int] | None, live: bool) -> Source:
    if name.startswith("gst:"):
        from edge.sources.gstreamer import open_gst

        return open_gst(name, every=not live)
    if not live:
        raise InputError(f"{name} gives only what it sees now; --every-frame is for files and gst:")
    if name.startswith("csi:"):
        from edge.sources.gstreamer import open_csi

        return open_csi(name, wanted)
    if name.startswith("rtsp"):
        from edge.sources.rtsp import open_rtsp

        return open_rtsp(name)
    from edge.sources.v4l2 import open_v4l2

    return open_v4l2(name, wanted)


def _open_file(name: str, wanted: tuple[int, int] | None) -> Source:
    if name.startswith(SYNTHETIC):
        from edge.sources.synthetic import SyntheticSource

        return SyntheticSource.parse(name)
    path = Path(checked_name(name))
    if path.is_dir():
        from edge.sources.image_folder import FolderSource

        return FolderSource(path, wanted)
    if path.is_file():
        from edge.sources.video_file import VideoSource

        return VideoSource(path)
    raise InputError(
        f"no source {name!r}; expected a video file, a folder of images, {SYNTHETIC}SEED, or a camera: "
        "/dev/videoN, csi:N, gst:PIPELINE, rtsp://HOST/PATH"
    )
