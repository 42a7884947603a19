"""Arming interlock: nothing is installed or switched while an autopilot reports that the vehicle is armed.

During an install the board also denies arming. It answers MAV_CMD_ARM_AUTHORIZATION_REQUEST (MAVLink, common
messages), which PX4 sends to the system that its parameter COM_ARM_AUTH_ID names. Autopilots that do not
send this request cannot be stopped from arming.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

from edge.core.errors import CheckError, InputError

HEARTBEAT_TIMEOUT_S = 3.0
"""Autopilots send one heartbeat per second (MAVLink, "Heartbeat/Connection Protocol")."""
MIN_LISTEN_S = 1.5
"""Minimum time to listen: on a shared link other vehicles may be heard first."""
NON_VEHICLE_TYPES = (
    "ADSB", "ANTENNA_TRACKER", "BATTERY", "CAMERA", "CHARGING_STATION", "FLARM", "GCS", "GIMBAL", "GPS",
    "GRIPPER", "ILLUMINATOR", "IMU", "LOG", "ODID", "ONBOARD_CONTROLLER", "OSD", "PARACHUTE", "SERVO",
    "WINCH",
)  # fmt: skip
"""Names in MAV_TYPE (MAVLink, minimal messages) of everything that is no vehicle."""
FIRST_OTHER_COMPONENT = 100
"""Lowest number in MAV_COMPONENT from which on all are cameras, servos, gimbals, computers and the like."""
REQUEST_TYPES = ("COMMAND_LONG", "COMMAND_INT")
"""Messages that can hold a request for authorization to arm."""
POLL_INTERVAL_S = 0.05
"""Time between two looks for arming requests."""
ARMED_MESSAGE = "the drone is armed"
"""Start of an error that `aerogaze flash` reads from the board: boards with older versions send it, too."""
AUTOPILOT_HINT = "name its link with --autopilot udpin:0.0.0.0:14550, or use --no-autopilot"


class ArmedError(CheckError):
    """The drone is armed: it flies, or is about to."""


class NoHeartbeatError(InputError):
    """It is unknown whether the drone is armed."""


class Autopilot(Protocol):
    """Source of the armed state, checked before the board is changed."""

    def check_disarmed(self) -> None:
        """Return if the vehicle is disarmed.

        Raises:
            ArmedError: The vehicle is armed.
            NoHeartbeatError: The state is unknown.
        """

    def deny_arming(self) -> AbstractContextManager[object]:
        """Deny requests to arm for as long as the block runs."""


class NoAutopilot:
    """The user declared that there is no autopilot: the board may always be changed."""

    def deny_arming(self) -> AbstractContextManager[object]:
        """Do nothing."""
        return nullcontext()

    def check_disarmed(self) -> None:
        """Do nothing."""


class UnknownAutopilot(NoAutopilot):
    """No autopilot is named, and the user did not declare that there is none."""

    def check_disarmed(self) -> None:
        """Refuse.

        Raises:
            NoHeartbeatError: Always.
        """
        raise NoHeartbeatError(
            f"no autopilot is named, so it is unknown whether the drone is armed; {AUTOPILOT_HINT}"
        )


class MavlinkAutopilot:
    """Autopilot on a MAVLink link. Its heartbeat has a flag for the armed state.

    Each check waits for new heartbeats, so that it reports the present state.

    Args:
        link: Connection string of pymavlink.
        timeout_s: How long to wait for a heartbeat.
    """

    def __init__(self, link: str, timeout_s: float = HEARTBEAT_TIMEOUT_S) -> None:
        self._link, self._timeout_s = link, timeout_s
        self._lock = threading.Lock()
        self._open_connection: Any = None

    def check_disarmed(self) -> None:
        """Listen for heartbeats of autopilots; those of other components do not count (`is_autopilot`).

        Raises:
            ArmedError: At least one autopilot is armed.
            NoHeartbeatError: No autopilot was heard, or the link broke.
            InputError: The link cannot be opened.
        """
        shared = self._open_connection
        with nullcontext(shared) if shared else self._connect() as connection, self._lock:
            try:
                armed = self._listen(connection)
            except OSError as error:
                raise NoHeartbeatError(
                    f"{self._link} broke ({error}), so it is unknown whether the drone is armed; "
                    f"{AUTOPILOT_HINT}"
                ) from None
        if armed is None:
            raise NoHeartbeatError(
                f"no heartbeat of an autopilot on {self._link} in {self._timeout_s:g} s, so it is unknown "
                f"whether the drone is armed; {AUTOPILOT_HINT}"
            )
        if armed:
            raise ArmedError(f"{ARMED_MESSAGE}: nothing is installed or switched until it is disarmed")

    @contextmanager
    def deny_arming(self) -> Iterator[None]:
        """Keep the link open, and answer requests to arm in a thread.

        Raises:
            InputError: The link cannot be opened.
        """
        done = threading.Event()

        def answer_requests() -> None:
            while not done.wait(POLL_INTERVAL_S):
                # A read fails, for example, on a serial line that another program reads as well.
                with suppress(OSError), self._lock:
                    message = self._open_connection.recv_match(type=list(REQUEST_TYPES), blocking=False)
                    _deny_arming_request(self._open_connection, message)

        with self._connect() as self._open_connection:
            thread = threading.Thread(target=answer_requests, name="autopilot", daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
                self._open_connection = None

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        try:
            from pymavlink import mavutil
        except ModuleNotFoundError:
            raise InputError(
                "asking an autopilot needs pymavlink, which is not installed: pip install 'aerogaze[jetson]'"
            ) from None
        try:
            connection = mavutil.mavlink_connection(self._link, baud=57600, retries=1)
        except (OSError, ValueError, OverflowError, ImportError) as error:  # OverflowError: no such port
            raise InputError(f"cannot listen on {self._link} ({error}): name another link") from None
        # When the other end of a TCP link closes, pymavlink prints a line and keeps reading: raise instead.
        for handler in ("handle_eof", "handle_disconnect"):
            setattr(connection, handler, _raise_disconnected)
        try:
            yield connection
        finally:
            connection.close()

    def _listen(self, connection: Any) -> bool | None:
        """Return whether any autopilot is armed; None if none was heard."""
        from pymavlink.mavutil import mavlink

        start, armed = time.monotonic(), None
        deadline = start + self._timeout_s
        while (remaining := deadline - time.monotonic()) > 0:
            message = connection.recv_match(
                type=["HEARTBEAT", *REQUEST_TYPES], blocking=True, timeout=remaining
            )
            if message is None or message.get_type() in REQUEST_TYPES:
                _deny_arming_request(connection, message)
                continue
            if not is_autopilot(message):
                continue
            if message.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED:
                return True
            armed, deadline = False, min(deadline, start + MIN_LISTEN_S)
        return armed


def is_autopilot(heartbeat: Any) -> bool:
    """Return whether a heartbeat is that of a vehicle's flight controller.

    The field `autopilot` alone does not tell: many cameras, gimbals and companion computers name one. As the
    MAVLink standard has it, a flight controller sends the type of its vehicle, and has component id 1. Some
    use an id for private purposes below 100; from those, only a certain type of vehicle counts.
    """
    from pymavlink.mavutil import mavlink

    if heartbeat.autopilot == mavlink.MAV_AUTOPILOT_INVALID:
        return False
    if heartbeat.type in {getattr(mavlink, f"MAV_TYPE_{name}", None) for name in NON_VEHICLE_TYPES}:
        return False
    component = heartbeat.get_srcComponent()
    if component == mavlink.MAV_COMP_ID_AUTOPILOT1:
        return True
    is_private = component < FIRST_OTHER_COMPONENT and component != mavlink.MAV_COMP_ID_TELEMETRY_RADIO
    is_known_type = heartbeat.type != mavlink.MAV_TYPE_GENERIC and heartbeat.type in mavlink.enums["MAV_TYPE"]
    return is_private and is_known_type


def _raise_disconnected() -> None:
    raise ConnectionResetError("the other end closed the connection")


def _deny_arming_request(connection: Any, command: Any) -> None:
    """Deny the command if it requests authorization to arm; ignore all others.

    The answer is sent in the name of the system and component that the request was sent to.
    """
    from pymavlink.dialects.v20 import common

    if command is None or command.command != common.MAV_CMD_ARM_AUTHORIZATION_REQUEST:
        return
    system = command.target_system or 1
    component = command.target_component or common.MAV_COMP_ID_ONBOARD_COMPUTER
    sender = common.MAVLink(None, system, component)
    vehicle = (command.get_srcSystem(), command.get_srcComponent())
    reason = common.MAV_ARM_AUTH_DENIED_REASON_GENERIC
    answer = sender.command_ack_encode(command.command, common.MAV_RESULT_DENIED, 0, reason, *vehicle)
    connection.write(answer.pack(sender))
