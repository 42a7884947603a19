"""The interlock: nothing is installed or switched while the autopilot says that it is armed."""

from __future__ import annotations

import time
from typing import Any, Protocol

from edge.errors import CheckError, InputError

WAIT_S = 3.0
"""Autopilots send a heartbeat each second (MAVLink, "Heartbeat/Connection Protocol")."""
LISTEN_S = 1.5
"""Listened at least, for on a shared link others may be heard first."""
ARMED = "the drone is armed"
REMEDY = "name its link with --autopilot udpin:0.0.0.0:14550, or say --no-autopilot"


class ArmedError(CheckError):
    """The drone flies, or is about to."""


class NoHeartbeatError(InputError):
    """Nobody can tell whether the drone is armed."""


class Autopilot(Protocol):
    """Whom to ask before the board is touched."""

    def check(self) -> None:
        """Return if the vehicle is disarmed.

        Raises:
            ArmedError: it is armed.
            NoHeartbeatError: nobody can tell.
        """


class NoAutopilot:
    """There is none to ask, and somebody has said so."""

    def check(self) -> None:
        """Do nothing."""


class UnknownAutopilot:
    """None is named, and nobody has said that there is none."""

    def check(self) -> None:
        """Refuse.

        Raises:
            NoHeartbeatError: always.
        """
        raise NoHeartbeatError(
            f"no autopilot is named, so nobody can tell whether the drone is armed; {REMEDY}"
        )


class MavlinkAutopilot:
    """An autopilot that speaks MAVLink; its heartbeat has a flag for being armed.

    `link`: as pymavlink has it. Each check listens anew, so that what it hears is of now.
    """

    def __init__(self, link: str, wait_s: float = WAIT_S) -> None:
        self._link, self._wait_s = link, wait_s

    def check(self) -> None:
        """Listen for heartbeats of autopilots (no ground station, no camera): none may say armed."""
        try:
            from pymavlink import mavutil
        except ModuleNotFoundError:
            raise InputError(
                "asking an autopilot needs pymavlink, which is not installed: pip install 'aerogaze[jetson]'"
            ) from None
        try:
            connection = mavutil.mavlink_connection(self._link, baud=57600)
        except (OSError, ValueError, OverflowError, ImportError) as error:  # OverflowError: no such port
            raise InputError(f"cannot listen on {self._link} ({error}): name another link") from None
        try:
            armed = self._listen(connection, mavutil.mavlink)
        finally:
            connection.close()
        if armed is None:
            raise NoHeartbeatError(
                f"no heartbeat of an autopilot on {self._link} in {self._wait_s:g} s, so nobody can tell "
                f"whether the drone is armed; {REMEDY}"
            )
        if armed:
            raise ArmedError(f"{ARMED}: nothing is installed or switched until it is disarmed")

    def _listen(self, connection: Any, mavlink: Any) -> bool | None:
        """Return whether any autopilot says armed; None: none was heard."""
        begun, armed = time.monotonic(), None
        end = begun + self._wait_s
        while (left := end - time.monotonic()) > 0:
            beat = connection.recv_match(type="HEARTBEAT", blocking=True, timeout=left)
            if beat is None or beat.autopilot == mavlink.MAV_AUTOPILOT_INVALID:
                continue
            if beat.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED:
                return True
            armed, end = False, min(end, begun + LISTEN_S)
        return armed
