"""A camera on the network: `rtsp://HOST/PATH`, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import cv2

from edge.sources.capture import CaptureSource, opened

TIMEOUT_MS = 1500
OPTIONS = "rtsp_flags;prefer_tcp|fflags;nobuffer|flags;low_delay"
"""FFmpeg's: no frame waits in a buffer or for a decoder's threads."""


def open_rtsp(url: str) -> CaptureSource:
    """Connect to a stream.

    Raises:
        InputError: nobody answers there, or no video comes; a password is not said.
    """
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", OPTIONS)
    name = without_password(url)
    missing = f"{name} gives no video; expected an RTSP server that streams there: ask it with ffplay or VLC"
    return CaptureSource(name, opened(url, cv2.CAP_FFMPEG, TIMEOUT_MS), missing)


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    secret = urlsplit(url).password
    return url.replace(f":{secret}@", ":***@", 1) if secret else url
