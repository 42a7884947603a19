"""Commands that the MAVLink camera understands."""

from __future__ import annotations

from typing import Any

from edge.sinks.mavlink.messages import CameraMessages
from edge.sinks.mavlink.tracker import DEFAULT_INTERVAL_S, TargetTracker


class CommandHandler:
    """Executes commands to the camera: requests for messages, and commands that control tracking.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        address: MAVLink system and component id of the camera.
        tracker: Tracker that the commands control.
        messages: Builds the messages that commands request.
    """

    def __init__(
        self, dialect: Any, address: tuple[int, int], tracker: TargetTracker, messages: CameraMessages
    ) -> None:
        self._dialect, self._address = dialect, address
        self._tracker, self._messages = tracker, messages

    def handle(self, message: Any) -> list[Any]:
        """Execute a COMMAND_LONG for this camera.

        Returns:
            The messages to send: the acknowledgement, then a requested message. Empty for other messages
            and other recipients, and for an unknown command to all components.
        """
        dialect = self._dialect
        if message.get_type() != "COMMAND_LONG" or not self._is_recipient(message):
            return []
        reply = self._execute(message)
        if reply is False and message.target_component == 0:
            return []
        result = dialect.MAV_RESULT_UNSUPPORTED if reply is False else dialect.MAV_RESULT_ACCEPTED
        sender = message.get_srcSystem(), message.get_srcComponent()
        acknowledgement = dialect.MAVLink_command_ack_message(message.command, result, 0, 0, *sender)
        return [acknowledgement] if isinstance(reply, bool) else [acknowledgement, reply]

    def _is_recipient(self, command: Any) -> bool:
        # A router can send our own messages back to us.
        is_own_echo = (command.get_srcSystem(), command.get_srcComponent()) == self._address
        return (
            not is_own_echo
            and command.target_system in (0, self._address[0])
            and command.target_component in (0, self._address[1])
        )

    def _execute(self, command: Any) -> Any:
        """Return the message that a command requests, or whether the command was executed."""
        dialect, param1, param2 = self._dialect, command.param1, command.param2
        if command.command == dialect.MAV_CMD_REQUEST_CAMERA_INFORMATION:
            return self._messages.camera_information()
        if command.command == dialect.MAV_CMD_REQUEST_MESSAGE:
            build = {
                dialect.MAVLINK_MSG_ID_HEARTBEAT: self._messages.heartbeat,
                dialect.MAVLINK_MSG_ID_CAMERA_INFORMATION: self._messages.camera_information,
                dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS: self._messages.tracking_status,
            }.get(param1)
            return build() if build else False
        if command.command == dialect.MAV_CMD_SET_MESSAGE_INTERVAL:
            if param1 != dialect.MAVLINK_MSG_ID_CAMERA_TRACKING_IMAGE_STATUS or not param2 >= -1:
                return False
            self._tracker.interval_s = _parse_interval(param2)
            return True
        if command.command == dialect.MAV_CMD_CAMERA_TRACK_POINT:
            return self._tracker.pick(param1, param2)
        if command.command == dialect.MAV_CMD_CAMERA_TRACK_RECTANGLE:
            return self._tracker.pick((param1 + command.param3) / 2, (param2 + command.param4) / 2)
        if command.command == dialect.MAV_CMD_CAMERA_STOP_TRACKING:
            self._tracker.stop()
            return True
        return False


def _parse_interval(interval_us: float) -> float:
    """Return the interval of MAV_CMD_SET_MESSAGE_INTERVAL in seconds; 0 is the default, -1 is never."""
    if interval_us == 0:
        return DEFAULT_INTERVAL_S
    return interval_us / 1e6 if interval_us > 0 else -1
