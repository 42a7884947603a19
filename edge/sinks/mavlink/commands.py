"""Commands that the MAVLink camera understands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from edge.sinks.mavlink.messages import DEFAULT_INTERVAL_S, STREAM_ID, CameraMessages
from edge.sinks.mavlink.tracker import TAP_RADIUS, TargetTracker

REPETITION_S = 5.0
"""A repeated command is not executed again within this time: its sender only missed the acknowledgement."""


class CommandHandler:
    """Executes commands to the camera: requests for messages, and commands that control tracking.

    Any number of ground stations may send commands; the last command counts. A station that repeats a command
    because it missed the acknowledgement does not undo what another one has commanded meanwhile.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        address: MAVLink system and component id of the camera.
        tracker: Tracker that the commands control.
        messages: Builds the messages that commands request.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        dialect: Any,
        address: tuple[int, int],
        tracker: TargetTracker,
        messages: CameraMessages,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect, self._address, self._clock = dialect, address, clock
        self._tracker, self._messages = tracker, messages
        self._tracking_commands = (
            dialect.MAV_CMD_CAMERA_TRACK_POINT,
            dialect.MAV_CMD_CAMERA_TRACK_RECTANGLE,
            dialect.MAV_CMD_CAMERA_STOP_TRACKING,
        )
        self._executed: dict[tuple[int, int], tuple[float, str, int]] = {}

    def handle(self, message: Any) -> list[Any]:
        """Execute a COMMAND_LONG or COMMAND_INT for this camera.

        Returns:
            The messages to send: the acknowledgement, then those requested. Empty for other messages and
            other recipients, and for an unknown command to all components.
        """
        if message.get_type() not in ("COMMAND_LONG", "COMMAND_INT") or not self._is_recipient(message):
            return []
        sender = message.get_srcSystem(), message.get_srcComponent()
        replies: list[Any] = []
        result = self._repeated_result(message, sender)
        if result is None:
            result, replies = self._execute(message)
            if message.command in self._tracking_commands:
                self._executed[sender] = self._clock(), _identify(message), result
        if result == self._dialect.MAV_RESULT_UNSUPPORTED and message.target_component == 0:
            return []
        acknowledgement = self._dialect.MAVLink_command_ack_message(message.command, result, 0, 0, *sender)
        return [acknowledgement, *replies]

    def _is_recipient(self, command: Any) -> bool:
        # A router can send our own messages back to us.
        is_own_echo = (command.get_srcSystem(), command.get_srcComponent()) == self._address
        return (
            not is_own_echo
            and command.target_system in (0, self._address[0])
            and command.target_component in (0, self._address[1])
        )

    def _repeated_result(self, command: Any, sender: tuple[int, int]) -> int | None:
        """Return the result of a tracking command that its sender repeats; None if it is to be executed."""
        if command.command not in self._tracking_commands or not getattr(command, "confirmation", 0):
            return None
        executed_s, identity, result = self._executed.get(sender, (0.0, "", 0))
        is_repeated = identity == _identify(command) and self._clock() - executed_s < REPETITION_S
        return result if is_repeated else None

    def _execute(self, command: Any) -> tuple[int, list[Any]]:
        """Execute a command; return the MAV_RESULT and the messages to send."""
        dialect, number = self._dialect, command.command
        requested = {
            dialect.MAV_CMD_REQUEST_MESSAGE: command.param1,
            dialect.MAV_CMD_REQUEST_CAMERA_INFORMATION: dialect.MAVLINK_MSG_ID_CAMERA_INFORMATION,
            dialect.MAV_CMD_REQUEST_VIDEO_STREAM_INFORMATION: dialect.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION,
            dialect.MAV_CMD_REQUEST_VIDEO_STREAM_STATUS: dialect.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS,
        }
        if number in requested:
            stream_id = command.param2 if number == dialect.MAV_CMD_REQUEST_MESSAGE else command.param1
            return self._request(requested[number], stream_id)
        if number == dialect.MAV_CMD_SET_MESSAGE_INTERVAL:
            interval = self._messages.periodic.get(command.param1)
            if interval is None or not command.param2 >= -1:
                return dialect.MAV_RESULT_UNSUPPORTED, []
            interval.seconds = _parse_interval(command.param2)
            return dialect.MAV_RESULT_ACCEPTED, []
        if number in (dialect.MAV_CMD_VIDEO_START_STREAMING, dialect.MAV_CMD_VIDEO_STOP_STREAMING):
            return self._switch_stream(number == dialect.MAV_CMD_VIDEO_START_STREAMING), []
        return self._track(command), []

    def _request(self, number: Any, stream_id: float) -> tuple[int, list[Any]]:
        dialect, build = self._dialect, self._messages.requestable.get(number)
        if build is None:
            return dialect.MAV_RESULT_UNSUPPORTED, []
        streams = dialect.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION, dialect.MAVLINK_MSG_ID_VIDEO_STREAM_STATUS
        is_all = stream_id == 0 or math.isnan(stream_id)  # MAVSDK leaves the stream open
        if number in streams and not is_all and stream_id != STREAM_ID:
            return dialect.MAV_RESULT_DENIED, []
        message = build()
        if message is None:
            return dialect.MAV_RESULT_TEMPORARILY_REJECTED, []
        messages = [message]
        if number == dialect.MAVLINK_MSG_ID_CAMERA_INFORMATION and self._messages.has_stream:
            # MAVSDK 4.1 would ask for it 20 s later only.
            messages.append(self._messages.requestable[dialect.MAVLINK_MSG_ID_VIDEO_STREAM_INFORMATION]())
        return dialect.MAV_RESULT_ACCEPTED, messages

    def _switch_stream(self, start: bool) -> int:
        """Accept the start of a stream that runs anyway; refuse its end: another station may watch it."""
        dialect = self._dialect
        if not self._messages.has_stream:
            return int(dialect.MAV_RESULT_UNSUPPORTED)
        return int(dialect.MAV_RESULT_ACCEPTED if start else dialect.MAV_RESULT_DENIED)

    def _track(self, command: Any) -> int:
        """Execute a command that controls tracking.

        Returns:
            DENIED for a position outside of the frame, TEMPORARILY_REJECTED where nothing salient is. In
            both cases the camera goes on as before.
        """
        dialect, number = self._dialect, command.command
        if number == dialect.MAV_CMD_CAMERA_STOP_TRACKING:
            self._tracker.stop()
            return int(dialect.MAV_RESULT_ACCEPTED)
        is_point = number == dialect.MAV_CMD_CAMERA_TRACK_POINT
        if not is_point and number != dialect.MAV_CMD_CAMERA_TRACK_RECTANGLE:
            return int(dialect.MAV_RESULT_UNSUPPORTED)
        x1, y1, x2, y2 = command.param1, command.param2, command.param3, command.param4
        positions = (x1, y1) if is_point else (x1, y1, x2, y2)
        if not all(0 <= position <= 1 for position in positions):
            return int(dialect.MAV_RESULT_DENIED)
        if is_point:
            radius = command.param3 if 0 < command.param3 <= 1 else 0.0
            is_picked = self._tracker.pick_point(x1, y1, max(radius, TAP_RADIUS))
        else:
            is_picked = self._tracker.pick_rectangle(x1, y1, x2, y2)
        return int(dialect.MAV_RESULT_ACCEPTED if is_picked else dialect.MAV_RESULT_TEMPORARILY_REJECTED)


def _identify(command: Any) -> str:
    """Return the number and the parameters of a command as text, in which NaN equals NaN."""
    return repr((command.command, command.param1, command.param2, command.param3, command.param4))


def _parse_interval(interval_us: float) -> float:
    """Return the interval of MAV_CMD_SET_MESSAGE_INTERVAL in seconds; 0 is the default, -1 is never."""
    if interval_us == 0:
        return DEFAULT_INTERVAL_S
    return interval_us / 1e6 if interval_us > 0 else -1
