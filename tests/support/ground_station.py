"""Ground station on loopback: a UDP socket, and pymavlink to read and write what goes through it."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

common = pytest.importorskip(
    "pymavlink.dialects.v20.common", reason="pymavlink is not installed: pip install 'aerogaze[mavlink]'"
)

VEHICLE, CAMERA = 7, common.MAV_COMP_ID_CAMERA
TIMEOUT_S = 20.0


class GroundStation:
    """Ground station that talks to one camera.

    Args:
        component: MAVLink component id of the station.
        system: MAVLink system id of the station.
        port: UDP port to listen on; 0 for a free one.

    Attributes:
        received: Messages that were received and not yet taken by `wait` or `flush`.
    """

    def __init__(self, component: int = 190, system: int = VEHICLE, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.mav = common.MAVLink(self, system, component)
        self.received: list[Any] = []
        self._camera_address = ("", 0)

    def write(self, data: bytes) -> None:
        """Send one datagram to the camera."""
        self.socket.sendto(data, self._camera_address)

    def listen(self, seconds: float) -> None:
        """Receive messages for a time."""
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                data, self._camera_address = self.socket.recvfrom(65536)
            except TimeoutError:
                return
            self.received += self.mav.parse_buffer(data) or []

    def wait(self, kind: str, **fields: object) -> Any:
        """Return the next message of a kind with these fields, and drop those before it."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            if (index := self._find(kind, fields)) is not None:
                message = self.received[index]
                del self.received[: index + 1]
                return message
            self.listen(0.02)
        raise AssertionError(f"no {kind} {fields} in {TIMEOUT_S} s")

    def flush(self) -> list[Any]:
        """Return all messages that the camera sent before it answers a command that is sent now.

        The command is unsupported, so that the camera sends nothing else for it. It is repeated, because the
        camera's socket may be full.
        """
        number = common.MAV_CMD_NAV_LAND
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            self._send_command(number)
            repeat_s = time.monotonic() + 2
            while time.monotonic() < repeat_s:
                if (index := self._find("COMMAND_ACK", {"command": number})) is not None:
                    messages = self.received[:index]
                    del self.received[: index + 1]
                    return messages
                self.listen(0.02)
        raise AssertionError(f"no answer in {TIMEOUT_S} s")

    def command(self, number: int, *params: float, component: int = CAMERA, repetition: int = 0) -> int:
        """Send a command and return the result of its acknowledgement."""
        self._send_command(number, *params, component=component, repetition=repetition)
        return int(self.wait("COMMAND_ACK", command=number, target_system=self.mav.srcSystem).result)

    def _send_command(
        self, number: int, *params: float, component: int = CAMERA, repetition: int = 0
    ) -> None:
        values = (*params, *[0.0] * (7 - len(params)))
        self.mav.send(common.MAVLink_command_long_message(VEHICLE, component, number, repetition, *values))

    def _find(self, kind: str, fields: dict[str, object]) -> int | None:
        for index, message in enumerate(self.received):
            if message.get_type() == kind and all(getattr(message, k) == v for k, v in fields.items()):
                return index
        return None
