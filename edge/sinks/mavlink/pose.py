"""Pose of the vehicle and its gimbal, as the autopilot reports it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.postprocessing.geolocation import (
    HEIGHT_SD_M,
    POSITION_SD_M,
    Attitude,
    PoseHistory,
    Position,
    euler_to_rotation,
    quaternion_to_rotation,
)
from edge.sinks.mavlink.gimbal import is_in_earth_frame

REQUEST_INTERVAL_S = 2.0
"""Time without a pose after which the autopilot is asked for it again."""
MIN_FIX_TYPE = 3
"""GPS_FIX_TYPE_3D_FIX. Below it are 1, no fix, and 2, no height; 0 means that there is no receiver."""


class PoseReader:
    """Puts the poses of one vehicle into a history.

    Args:
        dialect: MAVLink dialect module of pymavlink.
        send: Sends a message.
        address: MAVLink system and component id of this camera.
        poses: History that receives the poses.
        clock: Monotonic clock in seconds, that of the frames.
    """

    def __init__(
        self,
        dialect: Any,
        send: Callable[[Any], None],
        address: tuple[int, int],
        poses: PoseHistory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dialect, self._send, self._clock = dialect, send, clock
        self._address, self._poses = address, poses
        self._last_s: dict[str, float] = {}
        self._readers = {
            "GLOBAL_POSITION_INT": self._read_position,
            "ATTITUDE": self._read_attitude,
            "ATTITUDE_QUATERNION": self._read_quaternion,
            "GPS_RAW_INT": self._read_gps,
            "GIMBAL_DEVICE_ATTITUDE_STATUS": self._read_gimbal,
        }

    def handle_message(self, message: Any) -> None:
        """Take over a message with a pose of the vehicle; ignore all others."""
        kind = message.get_type()
        read = self._readers.get(kind)
        if read is None or message.get_srcSystem() != self._address[0]:
            return
        is_autopilot = message.get_srcComponent() == self._dialect.MAV_COMP_ID_AUTOPILOT1
        if is_autopilot or kind == "GIMBAL_DEVICE_ATTITUDE_STATUS":
            self._last_s["ATTITUDE" if kind == "ATTITUDE_QUATERNION" else kind] = self._clock()
            read(message)

    def request_messages(self) -> None:
        """Ask the autopilot for the messages that have not come for a while."""
        dialect = self._dialect
        for kind, rate_hz in (("GLOBAL_POSITION_INT", 10), ("ATTITUDE", 25), ("GPS_RAW_INT", 1)):
            if self._clock() - self._last_s.get(kind, -math.inf) < REQUEST_INTERVAL_S:
                continue
            self._last_s[kind] = self._clock()
            number = getattr(dialect, f"MAVLINK_MSG_ID_{kind}")
            command = dialect.MAV_CMD_SET_MESSAGE_INTERVAL
            autopilot = self._address[0], dialect.MAV_COMP_ID_AUTOPILOT1
            self._send(
                dialect.MAVLink_command_long_message(
                    *autopilot, command, 0, number, round(1e6 / rate_hz), 0, 0, 0, 0, 0
                )
            )

    def _read_position(self, message: Any) -> None:
        latitude, longitude = message.lat / 1e7, message.lon / 1e7
        is_unset = message.lat == 0 and message.lon == 0  # what autopilots send before they know
        if is_unset or not (abs(latitude) <= 90 and abs(longitude) <= 180):
            return
        velocity = np.array([message.vx, message.vy, message.vz], np.float64) / 100
        altitude_m, height_m = message.alt / 1e3, message.relative_alt / 1e3
        self._poses.add_position(Position(self._clock(), latitude, longitude, altitude_m, height_m, velocity))

    def _read_attitude(self, message: Any) -> None:
        angles = message.roll, message.pitch, message.yaw
        if all(map(math.isfinite, angles)):
            self._poses.add_attitude(Attitude(self._clock(), euler_to_rotation(*angles), _rate(message)))

    def _read_quaternion(self, message: Any) -> None:
        rotation = quaternion_to_rotation(message.q1, message.q2, message.q3, message.q4)
        if rotation is not None:
            self._poses.add_attitude(Attitude(self._clock(), rotation, _rate(message)))

    def _read_gps(self, message: Any) -> None:
        self._poses.has_fix = not 0 < message.fix_type < MIN_FIX_TYPE
        position_mm, height_mm = getattr(message, "h_acc", 0), getattr(message, "v_acc", 0)
        self._poses.position_sd_m = position_mm / 1e3 or POSITION_SD_M
        # The ground is not level to the centimetre, however good the receiver is.
        self._poses.height_sd_m = max(height_mm / 1e3, HEIGHT_SD_M)

    def _read_gimbal(self, message: Any) -> None:
        rotation = quaternion_to_rotation(*message.q)
        if rotation is None:
            return
        rates = message.angular_velocity_x, message.angular_velocity_y, message.angular_velocity_z
        rate = np.nan_to_num(np.array(rates, np.float64), posinf=0, neginf=0)  # NaN: the gimbal has none
        is_relative = not is_in_earth_frame(self._dialect, message)
        self._poses.add_gimbal(Attitude(self._clock(), rotation, rate, is_relative))


def _rate(message: Any) -> Any:
    rates = np.array([message.rollspeed, message.pitchspeed, message.yawspeed], np.float64)
    return np.nan_to_num(rates, posinf=0, neginf=0)
