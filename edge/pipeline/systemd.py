"""What a service tells systemd: sd_notify(3), datagrams to the socket that it names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from edge.core.run_status import Status, StatusSnapshot

EVERY_S = 1.0
"""How often the state is told in words."""


class SystemdNotifier:
    """Tells systemd that we are ready, alive and stopping; does nothing where no systemd asked to be told."""

    def __init__(self, status: Status, environ: Mapping[str, str] = os.environ) -> None:
        self._status = status
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit_us = environ.get("WATCHDOG_USEC", "0") if ours else "0"
        self._alive_every_s = int(limit_us) / 1e6 / 3
        self._told_s = self._alive_s = float("-inf")

    def ready(self) -> None:
        """Say that everything is open."""
        self._send("READY=1")

    def tick(self) -> None:
        """Say that the run is looked after, thrice in the watchdog's time, and how it is, once a second."""
        now = time.monotonic()
        if self._alive_every_s and now - self._alive_s >= self._alive_every_s:
            self._alive_s = now
            self._send("WATCHDOG=1")
        if self._address and now - self._told_s >= EVERY_S:
            self._told_s = now
            self._send(f"STATUS={format_snapshot(self._status.snapshot())}")

    def stopping(self) -> None:
        """Say that the end is in hand."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.setblocking(False)
                try:
                    to.sendto(text.encode(), self._address)
                except OSError:
                    return  # nobody listens, or not now: the frames come first


def format_snapshot(seen: StatusSnapshot) -> str:
    """Return a pipeline's state as one line."""
    faults = "".join(f"; {kind}: {message}" for kind, message in sorted(seen.open_faults.items()))
    return f"{seen.state}, {seen.fps:.1f} fps, {seen.frames} frames, {seen.dropped} dropped{faults}"
