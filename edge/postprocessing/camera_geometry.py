"""Where the camera looks: bearing and elevation of a point of the frame, by the pinhole model.

A point (u, v) px from the frame's middle, right and down, lies on the ray (u, v, f) with the focal
length f = (width / 2) / tan(field of view / 2) px: R. Hartley and A. Zisserman, "Multiple View Geometry",
2nd edition, chapter 6. Lens distortion is not modelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CameraGeometry:
    """A camera fixed to a vehicle, or to a gimbal; all in degrees.

    `fov_deg`: the horizontal field of view, in (0, 180). `pitch_deg` (up), `yaw_deg` (to the right) and
    `roll_deg` (clockwise as the camera sees) turn it from straight ahead: by yaw, then pitch, then roll
    about its own axes, as MAVLink and aviation have it.
    """

    fov_deg: float
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    def direction(self, x: float, y: float, aspect: float) -> tuple[float, float]:
        """Return bearing and elevation in degrees of the point (x, y) in [0, 1] of the frame.

        Bearing is to the right of straight ahead, in (-180, 180]; elevation is above the vehicle's plane,
        in [-90, 90]. `aspect`: the frame's height over its width; pixels are square.
        """
        focal = 0.5 / math.tan(math.radians(self.fov_deg) / 2)  # in widths of the frame
        forward, right, down = focal, x - 0.5, (y - 0.5) * aspect
        right, down = _turned(right, down, self.roll_deg)
        down, forward = _turned(down, forward, self.pitch_deg)
        forward, right = _turned(forward, right, self.yaw_deg)
        bearing = math.degrees(math.atan2(right, forward))
        return bearing, math.degrees(math.atan2(-down, math.hypot(right, forward)))


def _turned(a: float, b: float, degrees: float) -> tuple[float, float]:
    """Return the vector (a, b) turned by an angle from the first axis to the second."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return a * cosine - b * sine, a * sine + b * cosine
