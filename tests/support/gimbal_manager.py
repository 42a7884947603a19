"""Gimbal manager of Gimbal Protocol v2, as an autopilot has it, for ground stations and one camera."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from tests.support.ground_station import VEHICLE, GroundStation, common

AUTOPILOT = 1
INTERVAL_S = 0.1


class GimbalManager:
    """Answers a ground station at a port, and reports to a camera who is in control.

    Args:
        port: UDP port of the ground station.
        camera: Station on the camera's link; what the manager says goes through it.

    Attributes:
        controller: System and component that are in control; (0, 0) for none.
    """

    def __init__(self, port: int, camera: GroundStation) -> None:
        self.controller = (0, 0)
        self._station, self._camera = ("127.0.0.1", port), camera
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(INTERVAL_S)
        self._mav = common.MAVLink(self, VEHICLE, AUTOPILOT)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Send one message to the station and to the camera."""
        self._socket.sendto(data, self._station)
        self._camera.write(data)

    def report(self) -> None:
        """Say that the manager is there and who is in control."""
        self._mav.send(common.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3))
        self._mav.send(common.MAVLink_gimbal_manager_status_message(0, 0, 1, *self.controller, 0, 0))

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        due_s = 0.0
        while not self._closing.is_set():
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + INTERVAL_S
                self.report()
            with contextlib.suppress(TimeoutError):
                for message in self._mav.parse_buffer(self._socket.recvfrom(65536)[0]) or []:
                    if message.get_type() == "COMMAND_LONG" and message.target_component in (0, AUTOPILOT):
                        self._handle(message)

    def _handle(self, command: Any) -> None:
        sender = command.get_srcSystem(), command.get_srcComponent()
        if command.command == common.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE:
            asked = int(command.param1), int(command.param2)
            self.controller = {(-2, -2): sender, (-3, -3): (0, 0)}.get(asked, asked)
        asked_for = command.param1 if command.command == common.MAV_CMD_REQUEST_MESSAGE else None
        known = {
            None: [],
            common.MAVLINK_MSG_ID_GIMBAL_MANAGER_INFORMATION: [
                common.MAVLink_gimbal_manager_information_message(0, 0, 1, -0.5, 0.5, -1.5, 0.5, -3.1, 3.1)
            ],
            common.MAVLINK_MSG_ID_GIMBAL_DEVICE_INFORMATION: [
                common.MAVLink_gimbal_device_information_message(
                    0, b"maker", b"model", b"", 1, 1, 1, 0, 0, -0.5, 0.5, -1.5, 0.5, -3.1, 3.1, 1
                )
            ],
        }
        result = common.MAV_RESULT_ACCEPTED if asked_for in known else common.MAV_RESULT_UNSUPPORTED
        self._mav.send(common.MAVLink_command_ack_message(command.command, result, 0, 0, *sender))
        for message in known.get(asked_for, []):
            self._mav.send(message)
        self.report()
