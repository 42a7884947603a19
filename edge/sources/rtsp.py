"""A camera on the network: `rtsp://HOST/PATH`, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2

from edge.core.errors import InputError
from edge.sources.opencv_capture import CaptureSource, open_capture

TIMEOUT_MS = 1500
OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The only way there is to FFmpeg's options."""
OPTIONS = "rtsp_flags;prefer_tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's: no frame waits in a buffer or for a decoder's threads."""


def open_rtsp(url: str) -> CaptureSource:
    """Connect to a stream.

    Raises:
        InputError: no such address, nobody answers there, or no video comes; a password is not said.
    """
    name = hide_passwords(url)
    try:
        urlsplit(url)
    except ValueError as error:
        raise InputError(
            f"{name} is no address ({error}); expected rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH"
        ) from None
    missing = f"{name} gives no video; expected an RTSP server that streams there: ask it with ffplay or VLC"
    with _options():
        capture = open_capture(url, cv2.CAP_FFMPEG, TIMEOUT_MS)
    return CaptureSource(name, capture, missing)


@contextmanager
def _options() -> Iterator[None]:
    """Set FFmpeg's options, unless the user has; only here, since of a file they would lose frames."""
    if OPTIONS_VARIABLE in os.environ:
        yield
        return
    os.environ[OPTIONS_VARIABLE] = OPTIONS
    try:
        yield
    finally:
        os.environ.pop(OPTIONS_VARIABLE, None)


def hide_passwords(text: str) -> str:
    """Return a URL, or what has some in it, as it may be shown: rather too much hidden than too little."""
    text = re.sub(r"(\w+://[^\s:/?@]*):\S+@", r"\1:***@", text)  # to the last @: a password may have any sign
    return re.sub(r"(?i)(pass(?:word|wd)?|pwd?|user-pw)=[^&\s]+", r"\1=***", text)
