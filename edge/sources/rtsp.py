"""A camera on the network: `rtsp://HOST/PATH`, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2

from edge.sources.capture import CaptureSource, opened

TIMEOUT_MS = 1500
VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The only way there is to FFmpeg's options."""
OPTIONS = "rtsp_flags;prefer_tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's: no frame waits in a buffer or for a decoder's threads."""


def open_rtsp(url: str) -> CaptureSource:
    """Connect to a stream.

    Raises:
        InputError: nobody answers there, or no video comes; a password is not said.
    """
    name = without_password(url)
    missing = f"{name} gives no video; expected an RTSP server that streams there: ask it with ffplay or VLC"
    with _options():
        capture = opened(url, cv2.CAP_FFMPEG, TIMEOUT_MS)
    return CaptureSource(name, capture, missing)


@contextmanager
def _options() -> Iterator[None]:
    """Set FFmpeg's options, unless the user has; only here, since of a file they would lose frames."""
    if VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = OPTIONS
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    secret = urlsplit(url).password
    return url.replace(f":{secret}@", ":***@", 1) if secret else url
