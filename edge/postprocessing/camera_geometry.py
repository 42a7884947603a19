"""Bearing and elevation of a point of the frame, by the pinhole model.

A point (u, v) px from the frame's centre, to the right and down, lies on the ray (u, v, f) with the focal
length f = (width / 2) / tan(field of view / 2) px: R. Hartley and A. Zisserman, "Multiple View Geometry",
2nd edition, chapter 6. Lens distortion is not modelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CameraGeometry:
    """Field of view of a camera, and its orientation on a vehicle or a gimbal, in degrees.

    The rotations are applied as in MAVLink and aviation: yaw, then pitch, then roll, about the camera's axes.

    Attributes:
        fov_deg: Horizontal field of view, in (0, 180).
        pitch_deg: Rotation up from straight ahead.
        yaw_deg: Rotation to the right.
        roll_deg: Rotation clockwise, as seen by the camera.
    """

    fov_deg: float
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    def direction(self, x: float, y: float, aspect: float) -> tuple[float, float]:
        """Return bearing and elevation of a point in degrees.

        Args:
            x: Horizontal position in [0, 1] of the frame's width, from the left.
            y: Vertical position in [0, 1] of the frame's height, from the top.
            aspect: The frame's height over its width; pixels are square.

        Returns:
            The bearing to the right of straight ahead, in (-180, 180], and the elevation above the vehicle's
            plane, in [-90, 90].
        """
        forward, right, down = self.ray(x, y, aspect)
        bearing = math.degrees(math.atan2(right, forward))
        return bearing, math.degrees(math.atan2(-down, math.hypot(right, forward)))

    def ray(self, x: float, y: float, aspect: float) -> tuple[float, float, float]:
        """Return the ray through a point as (forward, right, down) of the vehicle; its length is arbitrary.

        Args:
            x: Horizontal position in [0, 1] of the frame's width, from the left.
            y: Vertical position in [0, 1] of the frame's height, from the top.
            aspect: The frame's height over its width; pixels are square.
        """
        focal = 0.5 / math.tan(math.radians(self.fov_deg) / 2)  # in frame widths
        forward, right, down = focal, x - 0.5, (y - 0.5) * aspect
        right, down = _rotate(right, down, self.roll_deg)
        down, forward = _rotate(down, forward, self.pitch_deg)
        forward, right = _rotate(forward, right, self.yaw_deg)
        return forward, right, down


def _rotate(a: float, b: float, degrees: float) -> tuple[float, float]:
    """Return the vector (a, b) rotated from the first axis towards the second."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return a * cosine - b * sine, a * sine + b * cosine
