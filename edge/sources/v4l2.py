"""A camera of the kernel's: `/dev/videoN[:WIDTHxHEIGHT[@FPS]]` or `v4l2:N[:...]`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

import cv2

from edge.core.errors import InputError
from edge.sources.opencv_capture import (
    Capture,
    CaptureSource,
    has_backend,
    open_capture,
    parse_mode,
    smaller_sizes,
)

NAME = re.compile(r"(?:v4l2:|/dev/video)(\d+)(?::(.+))?")
KEPT = "/dev/v4l/"
"""Links to cameras by names that stay; `edge.sources` has followed those that are there."""
SIZES = [(320, 180), (320, 240), (424, 240), (640, 360), (640, 400), (640, 480), (800, 600), (848, 480)]
SIZES += [(960, 540), (1024, 768), (1280, 720), (1280, 800), (1280, 960), (1920, 1080)]
"""Modes asked for: the driver says by what it sets whether the camera has one."""
PACKED = cv2.VideoWriter.fourcc(*"MJPG")
"""Over USB, full-size frames come fast as JPEG only."""


class Settable(Capture, Protocol):
    """A capture whose mode can be set."""

    def set(self, property: int, value: float, /) -> bool:  # noqa: A002
        """Ask for a property; return whether there is such."""


def open_v4l2(name: str, wanted: tuple[int, int] | None = None) -> CaptureSource:
    """Open a camera in the mode named, else in its own, or in a smaller one of that aspect that is enough.

    Raises:
        InputError: no such camera, it may not be read or is in use, or it has no such mode.
    """
    found = NAME.fullmatch(name)
    if found is None and name.startswith(KEPT):
        here = ", ".join(sorted(map(str, Path(KEPT).glob("by-id/*")))) or "none"
        raise InputError(f"no camera {name}; cameras by such names here: {here}")
    if found is None:
        raise InputError(
            f"no camera {name!r}; expected /dev/videoN or v4l2:N, with :WIDTHxHEIGHT[@FPS] if asked"
        )
    device = Path(f"/dev/video{found[1]}")
    asked = parse_mode(found[2], name) if found[2] else None
    if not device.exists():
        others = ", ".join(sorted(map(str, device.parent.glob("video*")))) or "none"
        raise InputError(f"no camera {device}; cameras here: {others}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise InputError(f"{device} may not be used by this user; expected a member of the group video")
    if not has_backend("v4l/v4l2"):
        raise InputError(
            f"{name} needs an OpenCV with V4L2: use the system's python3-opencv, as docs/live.md says"
        )
    capture = open_capture(int(found[1]), cv2.CAP_V4L2)
    if capture.isOpened():
        choose(capture, name, asked, wanted)
    return CaptureSource(name, capture, f"{device} gives no frame; is it in use, or no camera that captures?")


def choose(
    capture: Settable,
    name: str,
    asked: tuple[int, int, int | None] | None,
    wanted: tuple[int, int] | None,
) -> None:
    """Set the camera's mode: what is asked for; else the smallest of its aspect that has `wanted`.

    Raises:
        InputError: the camera sets another mode than the one asked for.
    """
    if asked is not None:
        given = _set(capture, *asked)
        if not _fits(given, asked):
            capture.set(cv2.CAP_PROP_FOURCC, PACKED)
            given = _set(capture, *asked)
        if not _fits(given, asked):
            capture.release()
            raise InputError(f"{name} has no mode {_said(*asked)}; it offers {_said(*given)} for it")
        return
    own = _size(capture)
    for width, height in smaller_sizes(SIZES, wanted, own) if wanted else ():
        if _set(capture, width, height)[:2] == (width, height):
            return
    if _size(capture) != own:
        _set(capture, *own)


def _set(capture: Settable, width: int, height: int, fps: int | None = None) -> tuple[int, int, float]:
    """Ask for a mode; return width, height and frames a second that the driver set."""
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if fps:
        capture.set(cv2.CAP_PROP_FPS, fps)
    return *_size(capture), capture.get(cv2.CAP_PROP_FPS)


def _said(width: int, height: int, fps: float | None) -> str:
    return f"{width}x{height}" + (f"@{fps:g}" if fps and fps > 0 else "")


def _fits(given: tuple[int, int, float], asked: tuple[int, int, int | None]) -> bool:
    """Whether a mode is the one asked for: 29.97 is 30, and a driver that tells no rate is believed."""
    fps = asked[2]
    return given[:2] == asked[:2] and (fps is None or not given[2] > 0 or abs(given[2] - fps) <= 0.05 * fps)


def _size(capture: Settable) -> tuple[int, int]:
    return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
