"""Cameras of the Linux kernel: `/dev/videoN[:WIDTHxHEIGHT[@FPS]]` or `v4l2:N[:...]`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

import cv2

from edge.core.errors import InputError
from edge.core.remedies import SYSTEM_OPENCV
from edge.sources.opencv_capture import (
    Capture,
    CaptureSource,
    has_backend,
    open_capture,
    parse_mode,
    smaller_sizes,
)

NAME = re.compile(r"(?:v4l2:|/dev/video)([0-9]{1,4})(?::(.+))?")
LINKS_FOLDER = "/dev/v4l/"
"""Links to cameras by persistent names; `edge.sources.factory` has replaced those that exist."""
COMMON_SIZES = [
    (320, 180),
    (320, 240),
    (424, 240),
    (640, 360),
    (640, 400),
    (640, 480),
    (800, 600),
    (848, 480),
]
COMMON_SIZES += [(960, 540), (1024, 768), (1280, 720), (1280, 800), (1280, 960), (1920, 1080)]
"""Sizes to try: OpenCV cannot list the modes of a camera, but the driver sets only those that it has."""
MJPEG = cv2.VideoWriter.fourcc(*"MJPG")
"""Over USB, many cameras reach large sizes and high rates only with JPEG frames."""
FPS_TOLERANCE = 0.05
"""Relative difference between the rate asked for and the rate set, such as 30 and 29.97."""


class SettableCapture(Capture, Protocol):
    """A capture whose mode can be set."""

    def set(self, property: int, value: float, /) -> bool:  # noqa: A002
        """Set a property and return whether the capture has it."""


def open_v4l2(name: str, min_size: tuple[int, int] | None = None) -> CaptureSource:
    """Open a camera.

    Args:
        name: The camera, with a mode if one is asked for.
        min_size: Width and height that suffice. Without a mode in the name, the smallest one with the aspect
            ratio of the camera's default mode is set.

    Raises:
        InputError: There is no such camera, it must not be read or is in use, or it lacks the mode.
    """
    match = NAME.fullmatch(name)
    if match is None and name.startswith(LINKS_FOLDER):
        links = ", ".join(sorted(map(str, Path(LINKS_FOLDER).glob("by-id/*")))) or "none"
        raise InputError(f"no camera {name}; cameras with such names here: {links}")
    if match is None:
        raise InputError(
            f"no camera {name!r}; expected /dev/videoN or v4l2:N, and :WIDTHxHEIGHT[@FPS] for a mode"
        )
    device = Path(f"/dev/video{match[1]}")
    mode = parse_mode(match[2], name) if match[2] else None
    if not device.exists():
        cameras = ", ".join(sorted(map(str, device.parent.glob("video*")))) or "none"
        raise InputError(f"no camera {device}; cameras here: {cameras}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise InputError(f"this user may not open {device}; expected a member of the group video")
    if not has_backend("v4l/v4l2"):
        raise InputError(f"{name} needs an OpenCV with V4L2; this one was built without it: {SYSTEM_OPENCV}")
    capture = open_capture(int(match[1]), cv2.CAP_V4L2)
    if capture.isOpened():
        select_mode(capture, name, mode, min_size)
    failure = (
        f"{device} gives no frame; expected a camera that captures and that no other process uses: close the "
        "other process, or name another device"
    )
    return CaptureSource(name, capture, failure)


def select_mode(
    capture: SettableCapture,
    name: str,
    mode: tuple[int, int, int | None] | None,
    min_size: tuple[int, int] | None,
) -> None:
    """Set the mode of a camera.

    Args:
        capture: The open camera.
        name: Name of the source, for the error.
        mode: Width, height and rate to set; None for a smaller mode with the default aspect ratio.
        min_size: Width and height that suffice; None to keep the default mode.

    Raises:
        InputError: The camera lacks the mode.
    """
    if mode is not None:
        actual = _set_mode(capture, *mode)
        if not _is_mode(actual, mode):
            capture.set(cv2.CAP_PROP_FOURCC, MJPEG)  # raw frames come first: they need no decoding
            actual = _set_mode(capture, *mode)
        if not _is_mode(actual, mode):
            capture.release()
            raise InputError(
                f"{name} has no mode {_format_mode(*mode)}; it offers {_format_mode(*actual)} instead"
            )
        return
    default = _size(capture)
    for width, height in smaller_sizes(COMMON_SIZES, min_size, default) if min_size else ():
        if _set_mode(capture, width, height)[:2] == (width, height):
            return
    if _size(capture) != default:
        _set_mode(capture, *default)


def _set_mode(
    capture: SettableCapture, width: int, height: int, fps: int | None = None
) -> tuple[int, int, float]:
    """Ask for a mode and return the width, height and frame rate that the driver set."""
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if fps:
        capture.set(cv2.CAP_PROP_FPS, fps)
    return *_size(capture), capture.get(cv2.CAP_PROP_FPS)


def _format_mode(width: int, height: int, fps: float | None) -> str:
    return f"{width}x{height}" + (f"@{fps:g}" if fps and fps > 0 else "")


def _is_mode(actual: tuple[int, int, float], mode: tuple[int, int, int | None]) -> bool:
    """Return whether the camera has set a mode; a driver that reports no rate is trusted."""
    (*size, rate), (*expected_size, fps) = actual, mode
    has_rate = fps is None or not rate > 0 or abs(rate - fps) <= FPS_TOLERANCE * fps
    return size == expected_size and has_rate


def _size(capture: SettableCapture) -> tuple[int, int]:
    return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
