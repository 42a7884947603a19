"""A gimbal pointed at what draws the gaze, by MAVLink's Gimbal Protocol v2 (mavlink.io/en/services)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region

CLAIMS, CLAIM_S = 5, 1.0
"""How often, and how far apart, the gimbal's manager is asked for control."""
SETPOINT_S = 0.05
"""Least time between setpoints."""
FRESH_S = 0.5
"""How old the gimbal's own attitude may be."""


class GimbalController:
    """Asks for control, sends setpoints, and gives way to whoever takes control.

    A camera fixed to the vehicle gives directions in the vehicle's frame. One that rides on the gimbal
    gives them on top of the gimbal's attitude, as GIMBAL_DEVICE_ATTITUDE_STATUS tells it; while none is
    heard there are no setpoints. `send` takes a message.
    """

    def __init__(
        self,
        dialect: Any,
        send: Callable[[Any], None],
        address: tuple[int, int],
        camera: CameraGeometry,
        riding: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect, self._send, self._address, self._clock = dialect, send, address, clock
        self._camera, self._riding = camera, riding
        self._claims, self._claimed_s, self._granted = 0, -math.inf, False
        self._taken = False
        self._sent_s = -math.inf
        self._attitude: tuple[float, CameraGeometry, int] | None = None

    def tick(self) -> None:
        """Ask for control, until it is granted or was asked for often enough."""
        if self._granted or self._claims == CLAIMS or self._clock() - self._claimed_s < CLAIM_S:
            return
        self._claims, self._claimed_s = self._claims + 1, self._clock()
        self._configure(*self._address)

    def hear(self, message: Any) -> None:
        """Take note of what the gimbal and its manager say."""
        kind, dialect = message.get_type(), self._dialect
        if kind == "COMMAND_ACK" and message.command == dialect.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE:
            self._granted |= message.result == dialect.MAV_RESULT_ACCEPTED
        elif kind == "GIMBAL_MANAGER_STATUS" and message.get_srcSystem() == self._address[0]:
            holder = message.primary_control_sysid, message.primary_control_compid
            self._granted |= holder == self._address
            self._taken = holder not in ((0, 0), self._address)
        elif kind == "GIMBAL_DEVICE_ATTITUDE_STATUS" and message.get_srcSystem() == self._address[0]:
            self._attitude = self._read(message)

    def point(self, region: Region, aspect: float) -> None:
        """Send a setpoint for the region, unless one was just sent or there is nothing to base it on."""
        now, dialect = self._clock(), self._dialect
        if self._taken or now - self._sent_s < SETPOINT_S:
            return
        camera, flags = self._camera, dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME
        if self._riding:
            if self._attitude is None or now - self._attitude[0] > FRESH_S:
                return
            _, camera, flags = self._attitude
        bearing, elevation = camera.direction(region.x, region.y, aspect)
        self._sent_s = now
        self._send(
            dialect.MAVLink_gimbal_manager_set_pitchyaw_message(
                target_system=self._address[0],
                target_component=0,  # whoever manages the gimbal
                flags=flags,
                gimbal_device_id=0,
                pitch=math.radians(elevation),
                yaw=math.radians(bearing),
                pitch_rate=math.nan,
                yaw_rate=math.nan,
            )
        )

    def release(self) -> None:
        """Give control back."""
        if self._claims and not self._taken:
            self._configure(-3, -3)  # "remove control if currently in control"

    def _configure(self, system: int, component: int) -> None:
        command = self._dialect.MAV_CMD_DO_GIMBAL_MANAGER_CONFIGURE
        unchanged = -1
        self._send(
            self._dialect.MAVLink_command_long_message(
                self._address[0], 0, command, 0, system, component, unchanged, unchanged, 0, 0, 0
            )
        )

    def _read(self, message: Any) -> tuple[float, CameraGeometry, int] | None:
        """Return when, how the gimbal points, and in which frame, by the message's own rules."""
        w, x, y, z = message.q
        if not 0.9 < w * w + x * x + y * y + z * z < 1.1:
            return None
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        degrees = (math.degrees(angle) for angle in (pitch, yaw, roll))
        dialect = self._dialect
        # Its roll and pitch are against the horizon, whatever its yaw is against.
        flags = dialect.GIMBAL_MANAGER_FLAGS_ROLL_LOCK | dialect.GIMBAL_MANAGER_FLAGS_PITCH_LOCK
        earth = message.flags & dialect.GIMBAL_DEVICE_FLAGS_YAW_IN_EARTH_FRAME
        if not message.flags & (earth | dialect.GIMBAL_DEVICE_FLAGS_YAW_IN_VEHICLE_FRAME):
            earth = message.flags & dialect.GIMBAL_DEVICE_FLAGS_YAW_LOCK
        if earth:
            flags |= dialect.GIMBAL_MANAGER_FLAGS_YAW_LOCK | dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_EARTH_FRAME
        else:
            flags |= dialect.GIMBAL_MANAGER_FLAGS_YAW_IN_VEHICLE_FRAME
        return self._clock(), CameraGeometry(self._camera.fov_deg, *degrees), flags
