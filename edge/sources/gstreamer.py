"""GStreamer pipelines: `gst:PIPELINE`, and `csi:N[:WIDTHxHEIGHT[@FPS]]` for the camera of a Jetson."""

from __future__ import annotations

import re

import cv2

from edge.core.errors import InputError
from edge.core.remedies import SYSTEM_OPENCV
from edge.sources.image_folder import choose_scale
from edge.sources.opencv_capture import (
    CaptureSource,
    has_backend,
    open_capture,
    open_with_timeout,
    parse_mode,
)
from edge.sources.public_name import public_name

NEWEST_FRAME_SINK = "appsink drop=true max-buffers=1 sync=false"
"""End of a live pipeline: one frame waits, and a newer one replaces it."""
EVERY_FRAME_SINK = "appsink drop=false max-buffers=4 sync=false"
OPEN_TIMEOUT_S = 10.0
"""Time limit for the first frame; OpenCV would wait for ever for a pipeline that does not start."""
DEFAULT_CSI_MODE = "1280x720@30"


def open_gst(name: str, every_frame: bool = False) -> CaptureSource:
    """Open `gst:PIPELINE`.

    Args:
        name: The pipeline in the syntax of gst-launch; without an appsink, one for BGR frames is appended.
        every_frame: Each frame counts, as of a file; else only the newest does.

    Raises:
        InputError: This OpenCV has no GStreamer, or the pipeline gives no frame.
    """
    pipeline = name.removeprefix("gst:").strip()
    if not re.search(r"\bappsink\b", pipeline):
        sink = EVERY_FRAME_SINK if every_frame else NEWEST_FRAME_SINK
        pipeline = f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! {sink}"
    shown_name = public_name(name)
    failure = (
        f"{shown_name} gives no frame; expected a GStreamer pipeline of video, which gst-launch-1.0 starts: "
        "run it there with `! autovideosink` to see the reason"
    )
    return _open(shown_name, pipeline, failure, every_frame=every_frame)


def open_csi(name: str, min_size: tuple[int, int] | None = None) -> CaptureSource:
    """Open `csi:N[:WIDTHxHEIGHT[@FPS]]` by NVIDIA's Argus.

    Args:
        name: The camera's number and its mode.
        min_size: Width and height that suffice; the hardware scales the frames down as far as they allow.

    Raises:
        InputError: The name has another form, or the camera gives no frame.
    """
    _, number, *modes = name.split(":", 2)
    width, height, fps = parse_mode(modes[0] if modes else DEFAULT_CSI_MODE, name)
    scale = choose_scale(width, height, min_size)
    if not re.fullmatch(r"[0-9]{1,3}", number):
        raise InputError(
            f"no camera {name!r}; expected csi:N[:WIDTHxHEIGHT[@FPS]], such as csi:0:{DEFAULT_CSI_MODE}"
        )
    failure = (
        f"{name} gives no frame; expected a CSI camera that no other process uses: check that nvargus-daemon "
        "runs and that the sensor has this mode"
    )
    return _open(name, csi_pipeline(int(number), width, height, fps, scale), failure, scale)


def csi_pipeline(number: int, width: int, height: int, fps: int | None, scale: int) -> str:
    """Return the pipeline of a Jetson's camera, whose frames are `scale` times smaller than its mode."""
    rate = f",framerate={fps}/1" if fps else ""
    return (
        f"nvarguscamerasrc sensor-id={number} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height}{rate} ! "
        "nvvidconv interpolation-method=5-Tap ! "  # the default is nearest neighbour
        f"video/x-raw,width={width // scale},height={height // scale},format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST_FRAME_SINK}"
    )


def _open(name: str, pipeline: str, failure: str, scale: int = 1, every_frame: bool = False) -> CaptureSource:
    if not has_backend("GStreamer"):
        raise InputError(
            f"{name.split(':')[0]}: needs an OpenCV with GStreamer; this one, {cv2.__version__}, was built "
            f"without it, as those of PyPI are: {SYSTEM_OPENCV}"
        )
    return open_with_timeout(
        OPEN_TIMEOUT_S,
        lambda: CaptureSource(name, open_capture(pipeline, cv2.CAP_GSTREAMER), failure, scale, every_frame),
        failure,
    )
