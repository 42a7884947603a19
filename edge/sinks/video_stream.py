"""Description of the video that a run streams, which the MAVLink camera passes on to ground stations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NO_REGION = 0
"""Id that no region has."""


@dataclass
class VideoStream:
    """A stream of H.264 video over RTP.

    Attributes:
        kind: `udp` sends packets to a receiver; `rtsp` is a server that receivers connect to.
        host: Receiver of `udp`; own address of `rtsp`, empty for all addresses.
        port: UDP port of the receiver, or TCP port of the server.
        path: Path of an RTSP stream, with its slash; empty for `udp`.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        fps: Pictures per second.
        bit_rate: Bits per second that the encoder aims at.
        is_running: Whether pictures are sent.
        followed_id: Id of the region that MAVLink follows, `NO_REGION` for none; None for the first region.
    """

    kind: Literal["udp", "rtsp"]
    host: str
    port: int
    path: str
    width: int
    height: int
    fps: float
    bit_rate: int
    is_running: bool = False
    followed_id: int | None = None

    def uri(self, own_host: str | None) -> str:
        """Return what MAVLink tells a ground station: an RTSP address, or the UDP port to listen to.

        Args:
            own_host: Address of this machine as the ground station sees it; None if unknown.
        """
        if self.kind == "udp":
            return str(self.port)
        host = self.host or own_host
        if host is None:
            return ""
        return f"rtsp://{f'[{host}]' if ':' in host else host}:{self.port}{self.path}"
