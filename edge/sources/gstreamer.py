"""GStreamer pipelines: `gst:PIPELINE`, `csi:N[:WIDTHxHEIGHT[@FPS]]` for the camera of a Jetson, `hw:SOURCE`.

`hw:` decodes a video file or an RTSP stream by NVIDIA's hardware, which also scales the frames of a file, so
that only small ones reach the CPU. The decoder is chosen by the elements that GStreamer has; without one, the
CPU decodes. `edge.sources.nvmm` keeps whole frames in the GPU's memory, for a release that takes them raw.
No such decoder was seen yet: only the text of the pipelines is tested.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
from edge.sources.public_name import public_name, with_credentials
from edge.sources.video_file import open_video

NEWEST_FRAME_SINK = "appsink drop=true max-buffers=1 sync=false"
"""End of a live pipeline: one frame waits, and a newer one replaces it."""
EVERY_FRAME_SINK = "appsink drop=false max-buffers=4 sync=false"
OPEN_TIMEOUT_S = 10.0
"""Time limit for the first frame; OpenCV would wait for ever for a pipeline that does not start."""
DEFAULT_CSI_MODE = "1280x720@30"
INSPECT_TIMEOUT_S = 20.0
"""Time limit of gst-inspect-1.0, which scans all plugins at its first start."""
HARDWARE_CODECS = ("avc1", "h264", "hevc", "hvc1", "hev1", "vp09", "vp90", "av01")
"""Codecs of files, by FFmpeg's four characters, that NVIDIA's decoders know."""


class NoDecoderError(InputError):
    """No hardware decodes a source here; the message says why."""


@dataclass(frozen=True)
class HardwareDecoder:
    """A decoder in hardware.

    Attributes:
        name: Its name in messages.
        elements: GStreamer elements that it needs.
        chain: Part of the pipeline from the compressed video to frames in the CPU's memory. `{size}` stands
            for the caps of their size.
    """

    name: str
    elements: tuple[str, ...]
    chain: str


JETSON_DECODER = "parsebin ! nvv4l2decoder enable-max-performance=true"
JETSON_SCALER = "nvvidconv interpolation-method=5-Tap"
"""The default is nearest neighbour."""
HARDWARE_DECODERS = (
    HardwareDecoder(
        "the decoder of a Jetson",
        ("parsebin", "nvv4l2decoder", "nvvidconv"),
        f"{JETSON_DECODER} ! {JETSON_SCALER} ! video/x-raw{{size}},format=BGRx",
    ),
    # decodebin takes NVDEC where it knows the codec; cudaupload passes on frames that are on the GPU already.
    HardwareDecoder(
        "NVDEC of a desktop GPU",
        ("decodebin", "nvh264dec", "cudaupload", "cudaconvertscale", "cudadownload"),
        "decodebin ! cudaupload ! cudaconvertscale ! video/x-raw(memory:CUDAMemory){size},format=BGRx ! "
        "cudadownload",
    ),
)
HasElement = Callable[[str], bool]


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
    number, width, height, fps = parse_csi(name)
    scale = choose_scale(width, height, min_size)
    failure = (
        f"{name} gives no frame; expected a CSI camera that no other process uses: check that nvargus-daemon "
        "runs and that the sensor has this mode"
    )
    return _open(name, csi_pipeline(number, width, height, fps, scale), failure, scale)


def parse_csi(name: str) -> tuple[int, int, int, int | None]:
    """Return number, width, height and, if given, frame rate of `csi:N[:WIDTHxHEIGHT[@FPS]]`.

    Raises:
        InputError: The name has another form.
    """
    _, number, *modes = name.split(":", 2)
    width, height, fps = parse_mode(modes[0] if modes else DEFAULT_CSI_MODE, name)
    if not re.fullmatch(r"[0-9]{1,3}", number):
        raise InputError(
            f"no camera {name!r}; expected csi:N[:WIDTHxHEIGHT[@FPS]], such as csi:0:{DEFAULT_CSI_MODE}"
        )
    return int(number), width, height, fps


def csi_pipeline(number: int, width: int, height: int, fps: int | None, scale: int) -> str:
    """Return the pipeline of a Jetson's camera, whose frames are `scale` times smaller than its mode."""
    return (
        f"{csi_camera(number, width, height, fps)} ! {JETSON_SCALER} ! "
        f"video/x-raw,width={width // scale},height={height // scale},format=BGRx ! "
        f"videoconvert ! video/x-raw,format=BGR ! {NEWEST_FRAME_SINK}"
    )


def csi_camera(number: int, width: int, height: int, fps: int | None) -> str:
    """Return the part of a pipeline that gives the frames of a Jetson's camera, in NVMM."""
    rate = f",framerate={fps}/1" if fps else ""
    return (
        f"nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),width={width},height={height}{rate}"
    )


def open_hardware(name: str, min_size: tuple[int, int] | None, every_frame: bool) -> CaptureSource:
    """Open a video file or an RTSP stream that is decoded by hardware.

    Args:
        name: Path or address.
        min_size: Width and height that suffice; the hardware scales the frames of a file down as far as they
            allow. The size of a stream is not known before it is decoded, so its frames keep it.
        every_frame: Each frame counts, as of a file; else only the newest does.

    Raises:
        NoDecoderError: No hardware decodes it here.
        InputError: It gives no frame.
    """
    decoder = find_hardware_decoder()
    source, full_size = compressed_video(name)
    size, scale = None, 1
    if full_size:
        scale = choose_scale(*full_size, min_size)
        size = full_size[0] // scale, full_size[1] // scale
    sink = EVERY_FRAME_SINK if every_frame else NEWEST_FRAME_SINK
    shown_name = public_name(name)
    failure = f"{shown_name} gives no frame by {decoder.name}; read it without hw: in front"
    return _open(shown_name, decoding_pipeline(decoder, source, size, sink), failure, scale, every_frame)


def compressed_video(name: str) -> tuple[str, tuple[int, int] | None]:
    """Return the part of a pipeline that gives the compressed video of a file or an RTSP stream.

    Returns:
        It, and the size of the frames; None for a stream, whose size is not known before it is decoded.

    Raises:
        NoDecoderError: The hardware does not decode the file as FFmpeg would.
    """
    if name.startswith("rtsp"):
        location = quote_property(with_credentials(name))
        return f"rtspsrc location={location} latency=0 ! application/x-rtp,media=video", None
    size = _check_file(Path(name))
    return f"filesrc location={quote_property(str(Path(name).absolute()))}", size


def find_hardware_decoder(has_element: HasElement | None = None) -> HardwareDecoder:
    """Return the first decoder whose elements GStreamer has.

    Args:
        has_element: Returns whether GStreamer has an element; None asks gst-inspect-1.0.

    Raises:
        NoDecoderError: There is none, or this OpenCV has no GStreamer.
    """
    if has_element is None and not has_backend("GStreamer"):
        raise NoDecoderError(f"this OpenCV has no GStreamer: {SYSTEM_OPENCV}")
    has_element = has_element or _has_element
    for decoder in HARDWARE_DECODERS:
        if all(map(has_element, decoder.elements)):
            return decoder
    missing = " or ".join(decoder.elements[1] for decoder in HARDWARE_DECODERS)
    raise NoDecoderError(f"GStreamer has no {missing} (see gst-inspect-1.0)")


def decoding_pipeline(decoder: HardwareDecoder, source: str, size: tuple[int, int] | None, sink: str) -> str:
    """Return the pipeline of a decoder, from the element that reads the source to the sink."""
    caps = f",width={size[0]},height={size[1]}" if size else ""
    return f"{source} ! {decoder.chain.format(size=caps)} ! videoconvert ! video/x-raw,format=BGR ! {sink}"


def quote_property(text: str) -> str:
    """Return a text as the value of a property in a pipeline, whatever characters it has."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _has_element(name: str) -> bool:
    try:
        words = ["gst-inspect-1.0", "--exists", name]
        return subprocess.run(words, capture_output=True, timeout=INSPECT_TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _check_file(path: Path) -> tuple[int, int]:
    """Return the size of a video that hardware decodes as FFmpeg would.

    Raises:
        NoDecoderError: The hardware does not know its codec, or does not rotate it.
    """
    capture = open_video(path)
    try:
        codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode(errors="replace").lower()
        if codec not in HARDWARE_CODECS:
            raise NoDecoderError(f"the decoder does not know its codec {codec.strip(chr(0)) or 'of no name'}")
        if capture.get(cv2.CAP_PROP_ORIENTATION_META):
            raise NoDecoderError("it is rotated by its metadata, which the decoder ignores")
        return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    finally:
        capture.release()


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
