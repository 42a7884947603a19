"""Lines that MAVLink travels on: a UDP peer or a serial line. Neither reading nor writing ever waits."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Protocol

from edge.core.errors import InputError

BAUD = 57600
MOST_BYTES = 8192
"""Read at once: a peer that floods the line cannot keep us busy."""


class MavlinkLink(Protocol):
    """Bytes out and in."""

    whole: bool
    """Whether what is read at once is whole messages."""

    def write(self, data: bytes) -> None:
        """Send one packet; what cannot go now is lost.

        Raises:
            OSError: the line is down.
        """

    def read(self) -> list[bytes]:
        """Return what has come, at most `MOST_BYTES` and a datagram."""

    def close(self) -> None:
        """Let go of the line."""


def open_link(name: str) -> MavlinkLink:
    """Open `udpout:HOST:PORT` or a serial line, `DEVICE[:BAUD]`.

    Raises:
        InputError: not such a name, or the line cannot be opened.
    """
    if name.startswith("/dev/"):
        device, _, baud = name.partition(":")
        if baud and not baud.isdecimal():
            raise InputError(f"cannot read the link {name}: expected a rate, as in {device}:921600")
        return SerialLink(device, int(baud or BAUD))
    kind, _, place = name.partition(":")
    host, _, port = place.rpartition(":")
    if kind != "udpout" or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"cannot read the link {name!r}: expected udpout:HOST:PORT or a serial line, /dev/ttyTHS1[:BAUD]"
        )
    return UdpLink(host.strip("[]"), int(port))


class UdpLink:
    """Datagrams to one peer, and from its host only."""

    whole = True

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise InputError(
                f"cannot find {host} for MAVLink ({error.strerror}): name another host"
            ) from None
        family, self._peer = found[0], found[4]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("", 0))  # so that answers can be read before anything was sent

    def write(self, data: bytes) -> None:
        """Send one datagram."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(data, self._peer)

    def read(self) -> list[bytes]:
        """Return the datagrams that have come."""
        came: list[bytes] = []
        size = 0
        while size < MOST_BYTES:
            try:
                data, sender = self._socket.recvfrom(65536)
            except (BlockingIOError, ConnectionRefusedError):
                break
            size += len(data) + 1
            if sender[0] == self._peer[0]:
                came.append(data[:MOST_BYTES])
        return came

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class SerialLink:
    """A serial line to an autopilot."""

    whole = False

    def __init__(self, device: str, baud: int) -> None:
        try:
            import serial
        except ModuleNotFoundError:
            raise InputError(
                f"{device} needs pyserial, which is not installed: pip install 'aerogaze[mavlink]'"
            ) from None
        try:
            self._serial = serial.Serial(device, baud, timeout=0, write_timeout=0)
        except (OSError, ValueError) as error:
            told = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise InputError(f"cannot open {device} at {baud} baud ({told}): name another line") from None

    def write(self, data: bytes) -> None:
        """Send what the line's buffer has room for: pyserial's own write would spin until there is more."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._serial.fileno(), data)

    def read(self) -> list[bytes]:
        """Return what has come."""
        return [bytes(self._serial.read(MOST_BYTES))]

    def close(self) -> None:
        """Close the line."""
        self._serial.close()
