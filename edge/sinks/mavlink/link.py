"""MAVLink transports: a UDP peer or a serial line. Reads and writes never block."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from edge.core.errors import InputError

DEFAULT_BAUD = 57600
MAX_READ_BYTES = 8192
"""Maximum number of bytes per read, so that a peer that floods the line cannot keep the sink busy."""
MAX_WAITING_READS = 256
"""Reads of a shared line that wait for a camera; the oldest are lost."""


class MavlinkLink(Protocol):
    """Transport of MAVLink packets."""

    is_packet_based: bool
    """Whether each item that `read` returns holds complete messages."""

    def write(self, data: bytes) -> None:
        """Send one packet; it is lost if the line cannot take it now.

        Raises:
            OSError: The line is down.
        """

    def read(self) -> list[bytes]:
        """Return the received data, at most `MAX_READ_BYTES` and one datagram."""

    def close(self) -> None:
        """Close the line."""

    @property
    def local_host(self) -> str | None:
        """Address of this machine as the peer sees it; None if the line has no addresses."""


def open_links(names: Sequence[str]) -> list[MavlinkLink]:
    """Open several links; if one fails, those before it are closed.

    Raises:
        InputError: As `open_link`, or a link is named twice.
    """
    links: list[MavlinkLink] = []
    try:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise InputError(f"--mavlink names {name} twice: leave one out")
            links.append(open_link(name))
    except InputError:
        for link in links:
            link.close()
        raise
    return links


def open_link(name: str) -> MavlinkLink:
    """Open a link by name: `udpout:HOST:PORT`, or a serial line as `DEVICE[:BAUD]`.

    Raises:
        InputError: The name is invalid, or the line cannot be opened.
    """
    if name.startswith("/dev/"):
        device, _, baud = name.partition(":")
        if baud and not re.fullmatch(r"[0-9]{1,8}", baud):
            raise InputError(f"invalid MAVLink link {name}: expected a baud rate, such as {device}:921600")
        return SerialLink(device, int(baud or DEFAULT_BAUD))
    kind, _, address = name.partition(":")
    host, _, port = address.rpartition(":")
    if kind != "udpout" or not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise InputError(
            f"invalid MAVLink link {name!r}: expected udpout:HOST:PORT or a serial line such as "
            "/dev/ttyTHS1[:BAUD]"
        )
    return UdpLink(host.strip("[]"), int(port))


class LinkGroup:
    """Several links that carry the same messages, such as those to two ground stations.

    A line that is down affects neither the other lines nor the messages after this one.
    """

    def __init__(self, links: Sequence[MavlinkLink]) -> None:
        self._links = links
        self._error: OSError | None = None

    def write(self, data: bytes) -> None:
        """Send one packet on each link; `raise_error` tells which line is down."""
        for link in self._links:
            try:
                link.write(data)
            except OSError as error:  # noqa: PERF203 (the other links are still to be written)
                self._error = self._error or error

    def raise_error(self) -> None:
        """Raise the first error of `write` since the last call, if there was one.

        Raises:
            OSError: A line is down.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Close all links."""
        for link in self._links:
            link.close()

    @property
    def local_host(self) -> str | None:
        """Address of this machine as the first peer with addresses sees it; None if none has."""
        return next(filter(None, (link.local_host for link in self._links)), None)


class SharedLinks:
    """Links of a run with several cameras, the components of one system: each camera receives everything.

    Args:
        names: Names of the links, as for `open_link`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._lines: list[_SharedLine] = []

    def share(self) -> list[MavlinkLink]:
        """Return the links for one more camera; the first opens the lines, and the last to close ends them.

        Raises:
            InputError: As `open_links`.
        """
        self._lines = self._lines or [_SharedLine(link) for link in open_links(self._names)]
        return [LinkShare(line) for line in self._lines]


class _SharedLine:
    """A line and those who share it."""

    def __init__(self, link: MavlinkLink) -> None:
        self.link, self.lock = link, threading.Lock()
        self.shares: list[LinkShare] = []


class LinkShare:
    """One camera's share of a line."""

    def __init__(self, line: _SharedLine) -> None:
        self._line, self.is_packet_based = line, line.link.is_packet_based
        self._received: deque[bytes] = deque(maxlen=MAX_WAITING_READS)
        line.shares.append(self)

    def write(self, data: bytes) -> None:
        """Send one packet."""
        with self._line.lock:  # the packets of two cameras must not mix on a serial line
            self._line.link.write(data)

    def read(self) -> list[bytes]:
        """Return the data that was received since the last call, by whichever camera."""
        with self._line.lock:
            if self not in self._line.shares:
                return []
            received = self._line.link.read()
            for share in self._line.shares:
                share._received.extend(received)
            waiting = list(self._received)
            self._received.clear()
        return waiting

    def close(self) -> None:
        """Give the share back."""
        with self._line.lock:
            self._line.shares.remove(self)
            if not self._line.shares:
                self._line.link.close()

    @property
    def local_host(self) -> str | None:
        """Address of this machine as the peer sees it."""
        return self._line.link.local_host


class UdpLink:
    """UDP socket to one peer; datagrams from other hosts are ignored."""

    is_packet_based = True

    def __init__(self, host: str, port: int) -> None:
        try:
            address_info = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise InputError(
                f"cannot resolve the MAVLink host {host} ({error.strerror}): choose another host"
            ) from None
        family, self._peer = address_info[0], address_info[4]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("", 0))  # an unbound socket cannot be read before the first write

    def write(self, data: bytes) -> None:
        """Send one datagram."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(data, self._peer)

    def read(self) -> list[bytes]:
        """Return the received datagrams."""
        datagrams: list[bytes] = []
        size = 0
        while size < MAX_READ_BYTES:
            try:
                data, sender = self._socket.recvfrom(65536)
            except (BlockingIOError, ConnectionRefusedError):
                break
            size += len(data) + 1  # empty datagrams count, too: a flood of them must end the loop
            if sender[0] == self._peer[0]:
                datagrams.append(data[:MAX_READ_BYTES])
        return datagrams

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def local_host(self) -> str | None:
        """Address from which the peer is reached."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(self._peer)  # of a datagram socket: chooses the route, sends nothing
            return str(probe.getsockname()[0])
        return None


class SerialLink:
    """Serial line to an autopilot."""

    is_packet_based = False

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
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise InputError(
                f"cannot open {device} at {baud} baud ({reason}): choose another serial line"
            ) from None

    def write(self, data: bytes) -> None:
        """Send as much as fits into the line's buffer."""
        # pyserial's own write would spin until there is room for everything.
        with contextlib.suppress(BlockingIOError):
            os.write(self._serial.fileno(), data)

    def read(self) -> list[bytes]:
        """Return the received bytes."""
        return [bytes(self._serial.read(MAX_READ_BYTES))]

    def close(self) -> None:
        """Close the line."""
        self._serial.close()

    @property
    def local_host(self) -> str | None:
        """None: a serial line has no addresses."""
        return None
