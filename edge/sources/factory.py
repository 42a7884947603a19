"""Opening of sources by their names; the module of each kind is imported when it is needed."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from edge.core.atomic_files import check_file_name
from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.frames import DeviceRequest, Source
from edge.core.locks import LOG
from edge.sources.public_name import public_name

SYNTHETIC = "synthetic:"
BAG = "bag:"
BAG_SUFFIXES = {".bag", ".db3", ".mcap"}
CAMERAS = ("/dev/video", "/dev/v4l/", "v4l2:", "csi:", "gst:", "rtsp://", "rtsps://", "ros2:")
_SCHEME = re.compile(r"(v4l2|csi|gst|rtsps?|bag|ros2)(?=:)", re.IGNORECASE)
HARDWARE = "hw:"
"""Before a video file or an RTSP address: decode it by hardware, if there is a decoder."""
_OTHER_STREAM = re.compile(r"(https?|rtmps?|srt|udp|rtp|tcp|file)://(.*)", re.IGNORECASE | re.DOTALL)
_READERS = {
    "mjpg": "gst:souphttpsrc location=URL is-live=true ! multipartdemux ! jpegdec",
    "http": "gst:uridecodebin uri=URL for a stream; download a file first",
    "rtmp": "gst:uridecodebin uri=URL",
    "srt": "gst:srtsrc uri=URL ! tsdemux ! decodebin",
    "udp": "gst:udpsrc port=PORT ! tsdemux ! decodebin for MPEG-TS, or gst:udpsrc port=PORT "
    "caps=application/x-rtp,encoding-name=H264 ! rtph264depay ! decodebin for RTP",
    "tcp": "gst:tcpclientsrc host=HOST port=PORT ! decodebin",
    "file": "the path alone, without file://",
}
"""What reads the addresses that are no sources of their own."""
DEFAULT_CAMERAS = {"v4l2src": "device=/dev/video0", "nvarguscamerasrc": "sensor-id=0"}
"""Cameras that GStreamer's elements open if their settings name none."""


def is_camera(name: str) -> bool:
    """Return whether a name is that of a live source, which gives frames at its own pace."""
    return _resolve_device(_split_hardware(name)[1]).startswith(CAMERAS)


def open_source(
    name: str,
    min_size: tuple[int, int] | None = None,
    live: bool | None = None,
    fps: float | None = None,
    device: DeviceRequest | None = None,
) -> Source:
    """Open a source of frames.

    Args:
        name: A video file, a folder of images, `bag:FLIGHT[#TOPIC]`,
            `synthetic:[KIND:]SEED[:WIDTHxHEIGHT[:FRAMES]]`, or a camera: `/dev/videoN`,
            `/dev/v4l/by-id/...`, `v4l2:N`, `csi:N`, `gst:PIPELINE`, `rtsp://...`,
            `ros2:TOPIC`. `hw:` before a video file or an RTSP address decodes it by hardware.
        min_size: Width and height that suffice. A source that can give smaller frames cheaply does so, and
            says it in `Frame.scale`.
        live: Frames come in real time, and the newest counts. None: True for cameras, False for files.
        fps: Frame rate, if it is not what the source says.
        device: How to keep frames in the GPU's memory: those of `csi:` and `hw:`, where the machine can.

    Raises:
        InputError: The source is missing, empty, or not readable as its kind.
    """
    by_hardware, name = _split_hardware(name)
    name = _resolve_device(name)
    camera = is_camera(name)
    takes_all = camera and live is False  # every frame of a camera: only `gst:` has them
    by_hardware = by_hardware and not takes_all
    if by_hardware:
        _check_hardware_name(name)

    def open_on_cpu() -> Source:
        hardware_source = _open_hardware(name, min_size) if by_hardware else None
        if camera:
            return hardware_source or _open_camera(name, min_size, live is not False)
        return hardware_source or _open_file(name, min_size)

    if device is not None and (by_hardware or name.startswith("csi:")) and not takes_all:
        from edge.sources.nvmm.source import open_nvmm

        source = open_nvmm(name, device, not camera, open_on_cpu)
    else:
        source = open_on_cpu()
    source.fps = fps or source.fps
    if camera or not live:
        return source
    from edge.sources.realtime_playback import PacedSource

    return PacedSource(source, fps)


def source_path(name: str) -> Path | None:
    """Return the file or folder that a source reads; None for cameras and simulated flights."""
    name = _resolve_device(_split_hardware(name)[1])
    if is_camera(name) or name.startswith(SYNTHETIC):
        return None
    if name.startswith(BAG):
        from edge.sources.bags.source import split_name

        return split_name(name)[0]
    return Path(check_file_name(name))


def exclusive_devices(name: str) -> list[str]:
    """Return the devices of a source that only one process at a time can read."""
    name = _resolve_device(name)
    if not name.startswith(("/dev/video", "v4l2:", "csi:", "gst:")):
        return []
    if not name.startswith("gst:"):  # remove the mode
        name = re.sub(r"^v4l2:(\d+)", r"/dev/video\1", name)
        name = re.sub(r"^(/dev/video\d+).*", r"\1", name)
    for element, setting in DEFAULT_CAMERAS.items():
        key = setting.partition("=")[0]
        # Up to the next "!", which ends the element's settings.
        name = re.sub(rf"\b{element}\b(?![^!]*\b{key}=)", f"{element} {setting}", name)
    devices = [os.path.realpath(path) for path in re.findall(r"/dev/[^\s\"'!;,]+", name)]
    sensors = re.findall(r"^csi:(\d+)|\bsensor-id=(\d+)", name)
    return devices + [f"csi:{csi or sensor_id}" for csi, sensor_id in sensors]


def _resolve_device(name: str) -> str:
    """Return the name with its scheme in lower case, and a link in /dev/v4l replaced by its device."""
    name = _SCHEME.sub(lambda scheme: scheme[0].lower(), name, count=1) if ":" in name[:6] else name
    match = re.fullmatch(r"(/dev/v4l/.+?)(:\d+x\d+(?:@\d+)?)?", name)
    return f"{os.path.realpath(match[1])}{match[2] or ''}" if match else name


def _split_hardware(name: str) -> tuple[bool, str]:
    """Return whether a name asks for hardware, and the name of the source itself."""
    if name[: len(HARDWARE)].lower() == HARDWARE:
        return True, name[len(HARDWARE) :]
    return False, name


def _check_hardware_name(name: str) -> None:
    """Raise InputError if a name that asks for hardware is neither a video file nor an RTSP address."""
    is_stream = name.startswith(("rtsp://", "rtsps://"))
    if not is_stream and (is_camera(name) or _file_kind(Path(check_file_name(name))) != "file"):
        raise InputError(
            f"{HARDWARE}{public_name(name)}: {HARDWARE} is for video files and rtsp:// addresses: "
            f"leave {HARDWARE} out"
        )


def _open_hardware(name: str, min_size: tuple[int, int] | None) -> Source | None:
    """Open a source that is decoded by hardware; None, with a line in the log, if the CPU must decode it."""
    from edge.sources.gstreamer import NoDecoderError, open_hardware

    try:
        return open_hardware(name, min_size, every_frame=not is_camera(name))
    except NoDecoderError as error:
        LOG.warning(f"{public_name(name)} is decoded by the CPU: {error}")
        return None


def _open_camera(name: str, min_size: tuple[int, int] | None, live: bool) -> Source:
    if name.startswith("gst:"):
        from edge.sources.gstreamer import open_gst

        return open_gst(name, every_frame=not live)
    if not live:
        raise InputError(
            f"{public_name(name)} gives only its current frames; --every-frame is for files and gst:"
        )
    if name.startswith("ros2:"):
        from edge.sources.ros.topic import RosTopicSource

        return RosTopicSource(name)
    if name.startswith("csi:"):
        from edge.sources.gstreamer import open_csi

        return open_csi(name, min_size)
    if name.startswith("rtsp"):
        from edge.sources.rtsp import open_rtsp

        return open_rtsp(name)
    from edge.sources.v4l2 import open_v4l2

    return open_v4l2(name, min_size)


def _open_file(name: str, min_size: tuple[int, int] | None) -> Source:
    if name.startswith(SYNTHETIC):
        from edge.sources.synthetic import SyntheticSource

        return SyntheticSource.parse(name)
    if name.startswith(BAG):
        from edge.sources.bags.source import BagSource

        return BagSource(name, min_size)
    path = Path(check_file_name(name))
    kind = _file_kind(path)
    if kind == "folder":
        from edge.sources.image_folder import FolderSource

        return FolderSource(path, min_size)
    if kind == "file":
        if path.suffix in BAG_SUFFIXES:
            raise InputError(f"{printable(name)} is a bag; give it as {BAG}{printable(name)}")
        from edge.sources.video_file import VideoSource

        return VideoSource(path)
    if kind:
        raise InputError(
            f"{printable(name)} is {kind}; expected a video file, a folder of images, or a camera"
        )
    raise InputError(_describe_missing(name))


def _file_kind(path: Path) -> str:
    """Return what is at a path: "file", "folder" or a description; empty if there is nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # also a name that is too long, or has a zero byte
        return "a link to a missing file" if _is_link(path) else ""
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "no regular file"


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def _describe_missing(name: str) -> str:
    """Return why a name is no source, and what reads it if another source does."""
    shown = public_name(name)
    if match := _OTHER_STREAM.match(name.strip()):
        scheme, rest = match[1].lower(), match[2].lower()
        kind = "mjpg" if re.search(r"mjpe?g", rest) else scheme[:4].replace("rtp", "udp")
        reader = _READERS["udp" if kind not in _READERS or (kind == "mjpg" and scheme[0] != "h") else kind]
        return f"{shown} is not read directly; give {reader}"
    return (
        f"no source '{printable(shown, 300)}'; expected a video file, a folder of images, {BAG}FLIGHT, "
        f"{SYNTHETIC}SEED, or a camera: /dev/videoN, csi:N, gst:PIPELINE, rtsp://HOST/PATH, ros2:TOPIC"
    )
