"""RTSP streams of network cameras, `rtsp://HOST/PATH`, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2

from edge.core.errors import InputError
from edge.sources.opencv_capture import CaptureSource, open_capture
from edge.sources.public_name import CREDENTIALS_VARIABLE, public_name, with_credentials

TIMEOUT_MS = 1500
OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""Environment variable: OpenCV has no other way to set FFmpeg's options."""
LOW_LATENCY_OPTIONS = "rtsp_flags;prefer_tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's options, with which no frame waits in a buffer or for the decoder's threads."""


def open_rtsp(url: str) -> CaptureSource:
    """Connect to a stream.

    Raises:
        InputError: The URL is invalid, no server answers, or no video comes; no message holds a password.
    """
    name = public_name(url)
    try:
        urlsplit(url)
    except ValueError:  # its text may hold a part of the password
        raise InputError(
            f"{name} is no address; expected rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH, or $"
            f"{CREDENTIALS_VARIABLE} and rtsp://HOST[:PORT]/PATH"
        ) from None
    failure = f"{name} gives no video; expected an RTSP server that streams there: try it with ffplay or VLC"
    with _low_latency():
        capture = open_capture(with_credentials(url), cv2.CAP_FFMPEG, TIMEOUT_MS)
    return CaptureSource(name, capture, failure)


@contextmanager
def _low_latency() -> Iterator[None]:
    """Set FFmpeg's options unless the user has; only during opening, because files would lose frames."""
    if OPTIONS_VARIABLE in os.environ:
        yield
        return
    os.environ[OPTIONS_VARIABLE] = LOW_LATENCY_OPTIONS
    try:
        yield
    finally:
        os.environ.pop(OPTIONS_VARIABLE, None)
