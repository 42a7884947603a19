"""GStreamer pipelines: `gst:PIPELINE`, and `csi:N[:WIDTHxHEIGHT[@FPS]]`, a Jetson's camera."""

from __future__ import annotations

import re

import cv2

from edge.core.errors import InputError
from edge.sources.image_folder import choose_scale
from edge.sources.opencv_capture import (
    CaptureSource,
    has_backend,
    open_capture,
    open_with_timeout,
    parse_mode,
)
from edge.sources.rtsp import hide_passwords

NEWEST = "appsink drop=true max-buffers=1 sync=false"
"""The end of a live pipeline: one frame waits, an older one goes."""
EVERY = "appsink drop=false max-buffers=4 sync=false"
OPEN_S = 10.0
"""How long a pipeline has for its first frame: OpenCV waits for ever for one that was not understood."""
CSI_MODE = "1280x720@30"


def open_gst(name: str, every: bool = False) -> CaptureSource:
    """Open `gst:PIPELINE`, in gst-launch's words; without an appsink, one for BGR frames is put to its end.

    `every`: each frame counts, as of a file; else only the newest.

    Raises:
        InputError: this OpenCV has no GStreamer, or the pipeline gives no frame.
    """
    pipeline = name.removeprefix("gst:").strip()
    if not re.search(r"\bappsink\b", pipeline):
        pipeline = f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! {EVERY if every else NEWEST}"
    shown = hide_passwords(name)
    missing = (
        f"{shown} gives no frame; expected a GStreamer pipeline of video, which gst-launch-1.0 starts: try "
        "it there with `! autovideosink`, it says why"
    )
    return _opened(shown, pipeline, missing, every=every)


def open_csi(name: str, wanted: tuple[int, int] | None = None) -> CaptureSource:
    """Open `csi:N[:WIDTHxHEIGHT[@FPS]]` by NVIDIA's Argus; the hardware scales to what is wanted.

    Raises:
        InputError: the name is not of the form, or the camera gives no frame.
    """
    _, number, *rest = name.split(":", 2)
    width, height, fps = parse_mode(rest[0] if rest else CSI_MODE, name)
    scale = choose_scale(width, height, wanted)
    if not number.isdigit():
        raise InputError(f"no camera {name!r}; expected csi:N[:WIDTHxHEIGHT[@FPS]], as csi:0:{CSI_MODE}")
    missing = (
        f"{name} gives no frame; expected a camera on CSI that nothing else uses: is nvargus-daemon running, "
        "and has the sensor this mode?"
    )
    return _opened(name, csi_pipeline(int(number), width, height, fps, scale), missing, scale)


def csi_pipeline(number: int, width: int, height: int, fps: int | None, scale: int) -> str:
    """Return the pipeline of a Jetson's camera, `scale` times smaller than its mode."""
    rate = f",framerate={fps}/1" if fps else ""
    return (
        f"nvarguscamerasrc sensor-id={number} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height}{rate} ! "
        "nvvidconv interpolation-method=5-Tap ! "  # its default takes the nearest pixel
        f"video/x-raw,width={width // scale},height={height // scale},format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST}"
    )


def _opened(name: str, pipeline: str, missing: str, scale: int = 1, every: bool = False) -> CaptureSource:
    if not has_backend("GStreamer"):
        raise InputError(
            f"{name.split(':')[0]}: needs an OpenCV with GStreamer; this one, {cv2.__version__}, was built "
            "without (PyPI's are): use the system's python3-opencv, as docs/live.md says"
        )
    return open_with_timeout(
        OPEN_S,
        lambda: CaptureSource(name, open_capture(pipeline, cv2.CAP_GSTREAMER), missing, scale, every),
        missing,
    )
