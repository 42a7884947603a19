"""Gimbal control by MAVLink's Gimbal Protocol v2 (mavlink.io/en/services/gimbal_v2.html)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region

MAX_CONTROL_REQUESTS = 5
CONTROL_REQUEST_INTERVAL_S = 1.0
"""Number of requests for control to the gimbal manager, and the time between them."""
MIN_SETPOINT_INTERVAL_S = 0.05
MAX_ATTITUDE_AGE_S = 0.5
"""Maximum age of the gimbal's reported attitude."""


class GimbalController:
    """Requests control of a gimbal, points it at regions, and yields when somebody else takes control.

    A camera fixed to the vehicle gives directions in the vehicle's frame. A camera mounted on the gimbal
    gives directions relative to the attitude that the gimbal reports (GIMBAL_DEVICE_ATTITUDE_STATUS);
    without a recent report no setpoints are sent.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        send: Sends a message.
        address: MAVLink system and component id of this camera.
        camera: Geometry of the camera.
        is_on_gimbal: The camera is mounted on the gimbal.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        dialect: Any,
        send: Callable[[Any], None],
        address: tuple[int, int],
        camera: CameraGeometry,
        is_on_gimbal: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect, self._send, self._address, self._clock = dialect, send, address, clock
        self._camera, self._is_on_gimbal = camera, is_on_gimbal
        self._requests, self._last_request_s = 0, -math.inf
        self._is_granted = False
        self._is_controlled_by_other = False
        self._last_setpoint_s = -math.inf
        self._attitude: tuple[float, CameraGeometry, int] | None = None

    def request_control(self) -> None:
        """Send a request for control if one is due: until it is granted, at most `MAX_CONTROL_REQUESTS`."""
        if self._is_granted or self._requests == MAX_CONTROL_REQUESTS:
            return
        if self._clock() - self._last_request_s < CONTROL_REQUEST_INTERVAL_S:
            return
        self._requests, self._last_request_s = self._requests + 1, self._clock()
        self._configure(*self._address)

    def handle_message(self, message: Any) -> None:
        """Update the state from a message of the gimbal or its manager; ignore all others."""
        kind, dialect = message.get_type(), self._dialect
        if kind == "COMMAND_ACK" and message.command == dialect.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE:
            self._is_granted |= message.result == dialect.MAV_RESULT_ACCEPTED
        elif kind == "GIMBAL_MANAGER_STATUS" and message.get_srcSystem() == self._address[0]:
            controller = message.primary_control_sysid, message.primary_control_compid
            self._is_granted |= controller == self._address
            self._is_controlled_by_other = controller not in ((0, 0), self._address)
        elif kind == "GIMBAL_DEVICE_ATTITUDE_STATUS" and message.get_srcSystem() == self._address[0]:
            self._attitude = self._read_attitude(message)

    def point_at(self, region: Region, aspect: float) -> None:
        """Send a setpoint that points the gimbal at a region.

        Nothing is sent if somebody else has control, right after another setpoint, or without a recent
        attitude for a camera on the gimbal.

        Args:
            region: The region, in relative coordinates.
            aspect: Height of the frame divided by its width.
        """
        now, dialect = self._clock(), self._dialect
        if self._is_controlled_by_other or now - self._last_setpoint_s < MIN_SETPOINT_INTERVAL_S:
            return
        camera, flags = self._camera, dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME
        if self._is_on_gimbal:
            if self._attitude is None or now - self._attitude[0] > MAX_ATTITUDE_AGE_S:
                return
            _, camera, flags = self._attitude
        bearing, elevation = camera.direction(region.x, region.y, aspect)
        self._last_setpoint_s = now
        self._send(
            dialect.MAVLink_gimbal_manager_set_pitchyaw_message(
                target_system=self._address[0],
                target_component=0,  # any gimbal manager of this system
                flags=flags,
                gimbal_device_id=0,
                pitch=math.radians(elevation),
                yaw=math.radians(bearing),
                pitch_rate=math.nan,
                yaw_rate=math.nan,
            )
        )

    def release_control(self) -> None:
        """Give control back if it was requested."""
        if self._requests and not self._is_controlled_by_other:
            self._configure(-3, -3)  # "remove control if currently in control"

    def _configure(self, system: int, component: int) -> None:
        command = self._dialect.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE
        unchanged = -1
        self._send(
            self._dialect.MAVLink_command_long_message(
                self._address[0], 0, command, 0, system, component, unchanged, unchanged, 0, 0, 0
            )
        )

    def _read_attitude(self, message: Any) -> tuple[float, CameraGeometry, int] | None:
        """Return the time, the geometry of a camera on the gimbal, and the setpoint flags for its frame.

        None if the quaternion is not a unit quaternion.
        """
        w, x, y, z = message.q
        if not 0.9 < w * w + x * x + y * y + z * z < 1.1:
            return None
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        degrees = (math.degrees(angle) for angle in (pitch, yaw, roll))
        return self._clock(), CameraGeometry(self._camera.fov_deg, *degrees), self._setpoint_flags(message)

    def _setpoint_flags(self, message: Any) -> int:
        """Return the flags of a setpoint in the frame of a reported attitude."""
        dialect = self._dialect
        # Roll and pitch are relative to the horizon in every frame; only the frame of yaw varies.
        flags = int(dialect.GIMBAL_MANAGER_FLAGS_ROLL_LOCK | dialect.GIMBAL_MANAGER_FLAGS_PITCH_LOCK)
        if is_in_earth_frame(dialect, message):
            return flags | int(
                dialect.GIMBAL_MANAGER_FLAGS_YAW_LOCK | dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_EARTH_FRAME
            )
        return flags | int(dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME)


def is_in_earth_frame(dialect: Any, message: Any) -> bool:
    """Return whether the yaw of a GIMBAL_DEVICE_ATTITUDE_STATUS is relative to north."""
    earth = message.flags & dialect.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME
    if not message.flags & (earth | dialect.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME):
        # Older gimbals set neither frame flag; the standard then derives the frame from the yaw lock.
        earth = message.flags & dialect.GIMBAL_DEVICE_FLAGS_YAW_LOCK
    return bool(earth)
