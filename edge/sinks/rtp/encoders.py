"""H.264 encoders of GStreamer that the RTP sink can use, best first."""

from __future__ import annotations

from dataclasses import asdict, dataclass

KEYFRAME_INTERVAL = 30
"""Pictures between two key frames: a receiver that starts sees nothing until the next one."""


@dataclass(frozen=True)
class Encoder:
    """A GStreamer encoder.

    Attributes:
        element: Name of the element.
        launch: Its part of a pipeline: takes I420, gives H.264 without B frames. It names the element
            `encoder` and holds `{bit_rate}`.
        property: Property that changes the bit rate while it runs.
        unit: Bits per second in one unit of that property.
    """

    element: str
    launch: str
    property: str = "bitrate"
    unit: int = 1

    def as_settings(self) -> dict[str, object]:
        """Return the values as a JSON object."""
        return asdict(self)


ENCODERS = (
    Encoder(
        "nvv4l2h264enc",
        "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc name=encoder bitrate={bit_rate} "
        f"insert-sps-pps=true idrinterval={KEYFRAME_INTERVAL} iframeinterval={KEYFRAME_INTERVAL} "
        "maxperf-enable=true",
    ),
    Encoder(
        "v4l2h264enc",
        'v4l2h264enc name=encoder extra-controls="controls,video_bitrate={bit_rate},repeat_sequence_header=1,'
        f'h264_i_frame_period={KEYFRAME_INTERVAL}" ! video/x-h264,level=(string)4',
        "",  # its rate is fixed when it starts
    ),
    Encoder(
        "x264enc",
        "x264enc name=encoder tune=zerolatency speed-preset=ultrafast threads=1 bitrate={bit_rate} "
        f"key-int-max={KEYFRAME_INTERVAL} ! video/x-h264,profile=baseline",
        unit=1000,
    ),
    Encoder(
        "openh264enc",
        "openh264enc name=encoder complexity=low rate-control=bitrate multi-thread=1 bitrate={bit_rate} "
        f"gop-size={KEYFRAME_INTERVAL}",
    ),
)
"""Encoders of a Jetson, of other boards, of x264 and of Cisco. Only `openh264enc` was seen to work so far."""
