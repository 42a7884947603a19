"""Notification of systemd about the state of a service, by sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from edge.core.run_status import Status, StatusSnapshot

STATUS_INTERVAL_S = 1.0
"""Time between two status texts."""


class SystemdNotifier:
    """Tells systemd that the service is ready, alive or stopping; does nothing without NOTIFY_SOCKET.

    Args:
        statuses: Status of each camera of the run.
        environ: Environment variables, which name the socket and the watchdog's interval.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        statuses: Sequence[Status],
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._statuses, self._clock = statuses, clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watchdog_interval_s = _watchdog_s(environ) / 3
        self._last_status_s = self._last_watchdog_s = float("-inf")

    def ready(self) -> None:
        """Report that the service has started."""
        self._send("READY=1")

    def tick(self) -> None:
        """Report what is due: a keep-alive three times per watchdog interval, a status text every second."""
        now = self._clock()
        if self._watchdog_interval_s and now - self._last_watchdog_s >= self._watchdog_interval_s:
            self._last_watchdog_s = now
            self._send("WATCHDOG=1")
        if self._address and now - self._last_status_s >= STATUS_INTERVAL_S:
            self._last_status_s = now
            self._send(f"STATUS={self._describe()}")

    def _describe(self) -> str:
        texts = [(status.camera, format_snapshot(status.snapshot())) for status in self._statuses]
        return "; ".join(f"{camera}: {text}" if camera else text for camera, text in texts)

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        _notify(self._address, text)


def extend_watchdog(seconds: float, environ: MutableMapping[str, str] = os.environ) -> None:
    """Give this process, and the program that replaces it, more time between two signs of life.

    Does nothing if systemd does not watch this process, or waits longer already.

    Args:
        seconds: Time between two signs of life, in seconds.
        environ: Environment variables, which are changed for the program that replaces this process.
    """
    if 0 < _watchdog_s(environ) < seconds:
        environ["WATCHDOG_USEC"] = str(int(seconds * 1e6))
        _notify(environ.get("NOTIFY_SOCKET", ""), f"WATCHDOG_USEC={environ['WATCHDOG_USEC']}")


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return the watchdog's time for this process in seconds; 0 if it is not watched."""
    # systemd sets WATCHDOG_PID; child processes inherit the variables but are not watched.
    is_watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if is_watched else 0.0


def _notify(address: str, text: str) -> None:
    if address:
        if address.startswith("@"):  # the abstract namespace
            address = f"\0{address[1:]}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
            notify_socket.setblocking(False)
            try:
                notify_socket.sendto(text.encode(), address)
            except OSError:
                return  # nobody listens, or the buffer is full: frames matter more


def format_snapshot(snapshot: StatusSnapshot) -> str:
    """Return the state of a pipeline as one line."""
    faults = "".join(f"; {kind}: {message}" for kind, message in sorted(snapshot.open_faults.items()))
    return (
        f"{snapshot.state}, {snapshot.fps:.1f} fps, {snapshot.frames} frames, "
        f"{snapshot.dropped} dropped{faults}"
    )
