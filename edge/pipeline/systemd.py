"""Notification of systemd about the state of a service, by sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from edge.core.run_status import Status, StatusSnapshot

STATUS_INTERVAL_S = 1.0
"""Time between two status texts."""
EXTENDED_VARIABLE = "AEROGAZE_WATCHDOG_EXTENDED"
"""Set by `extend_watchdog` for the program that follows."""


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
        self._is_extended = EXTENDED_VARIABLE in environ
        self._last_status_s = self._last_watchdog_s = float("-inf")

    def ready(self) -> None:
        """Report that the service has started. From now on systemd waits for the watchdog's time."""
        limit = f"\nWATCHDOG_USEC={_microseconds(self._watchdog_interval_s * 3)}" if self._is_extended else ""
        self._send(f"READY=1{limit}")

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


def extend_watchdog(seconds: float, start_s: float, environ: MutableMapping[str, str] = os.environ) -> None:
    """Give this process, and the program that replaces it, more time between two signs of life.

    systemd waits from this call on, although the program that follows can only give a sign of life when it
    has started. So it waits for `start_s` first; `SystemdNotifier.ready` sets the time for later.
    Does nothing if systemd does not watch this process, or waits longer already.

    Args:
        seconds: Time between two signs of life, in seconds.
        start_s: Longest time of the start, in seconds.
        environ: Environment variables, which are changed for the program that replaces this process.
    """
    if 0 < _watchdog_s(environ) < seconds:
        environ["WATCHDOG_USEC"] = _microseconds(seconds)
        environ[EXTENDED_VARIABLE] = "1"
        _notify(environ.get("NOTIFY_SOCKET", ""), f"WATCHDOG_USEC={_microseconds(max(seconds, start_s))}")


def _microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))


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
