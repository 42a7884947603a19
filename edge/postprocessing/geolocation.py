"""Latitude and longitude of regions on level ground, from the pose of the vehicle and the view of the camera.

The ray through a region is rotated into north, east and down, and intersected with the ground. The
uncertainty is of first order: each error moves the point by its derivative, and the squares are added.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.postprocessing.camera_geometry import CameraGeometry
from edge.postprocessing.regions import Region

MAX_POSITION_AGE_S = 1.0
MAX_ATTITUDE_AGE_S = 0.3
"""An older pose gives no coordinate; a younger one is moved on with its speed and rotation rate."""
ATTITUDE_SD_DEG, HEADING_SD_DEG, TIMING_SD_S = 1.5, 4.0, 0.05
POSITION_SD_M, HEIGHT_SD_M = 3.0, 3.0
"""Assumed standard deviations; those of the position are replaced by what the autopilot reports."""
MIN_SIGMAS = 2.0
"""The angle to the horizon and the height must be at least this many standard deviations."""
MAX_LATITUDE_DEG = 89.0
_WGS84_RADIUS_M, _WGS84_E2 = 6_378_137.0, 6.694_379_990_14e-3
_HISTORY = 2048
"""Poses that are kept: 20 s at 100 per second, more than the longest delay of a camera."""

Vector = NDArray[np.float64]
"""(3,): north, east, down of the earth, or forward, right, down of the vehicle."""


@dataclass(frozen=True)
class Position:
    """Position of the vehicle.

    Attributes:
        time_s: Time on the clock of the frames.
        latitude_deg: Latitude, WGS84.
        longitude_deg: Longitude, WGS84.
        altitude_m: Height above sea level.
        height_m: Height above home, where the vehicle took off.
        velocity: (north, east, down) in m/s.
    """

    time_s: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    height_m: float
    velocity: Vector


@dataclass(frozen=True)
class Attitude:
    """Orientation of the vehicle, or of a gimbal.

    Attributes:
        time_s: Time on the clock of the frames.
        rotation: (3, 3), from forward, right, down to north, east, down.
        rate: (3,), rotation rate in radians per second about forward, right, down.
        is_relative: The heading is relative to that of the vehicle, not to north.
    """

    time_s: float
    rotation: NDArray[np.float64]
    rate: Vector
    is_relative: bool = False

    def rotation_at(self, time_s: float) -> NDArray[np.float64]:
        """Return the rotation (3, 3) at another time in seconds, if the rate stays the same."""
        return np.asarray(self.rotation @ cv2.Rodrigues(self.rate * (time_s - self.time_s))[0])


@dataclass(frozen=True)
class GeoPoint:
    """A point on the ground.

    Attributes:
        latitude_deg: Latitude, WGS84.
        longitude_deg: Longitude, WGS84.
        altitude_m: Height of the ground above sea level.
        accuracy_m: Root mean square of the horizontal error that is expected.
        distance_m: Distance from the camera.
        heading_deg: Direction from the camera, clockwise from north, in [0, 360).
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    accuracy_m: float
    distance_m: float
    heading_deg: float


ImagePoint = tuple[float, float]
"""Horizontal and vertical position in a frame, each in [0, 1]."""
Sample = TypeVar("Sample", Position, Attitude)


class PoseHistory:
    """Recent poses of the vehicle and its gimbal; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: deque[Position] = deque(maxlen=_HISTORY)
        self._attitudes: deque[Attitude] = deque(maxlen=_HISTORY)
        self._gimbals: deque[Attitude] = deque(maxlen=_HISTORY)
        self.position_sd_m, self.height_sd_m = POSITION_SD_M, HEIGHT_SD_M
        self.has_fix = True

    def add_position(self, position: Position) -> None:
        """Add a position."""
        with self._lock:
            self._positions.append(position)

    def add_attitude(self, attitude: Attitude) -> None:
        """Add an attitude of the vehicle."""
        with self._lock:
            self._attitudes.append(attitude)

    def add_gimbal(self, attitude: Attitude) -> None:
        """Add an attitude of the gimbal."""
        with self._lock:
            self._gimbals.append(attitude)

    def position_at(self, time_s: float) -> Position | None:
        """Return the position nearest to a time in seconds; None if none is within `MAX_POSITION_AGE_S`."""
        with self._lock:
            return _nearest(self._positions, time_s, MAX_POSITION_AGE_S)

    def attitude_at(self, time_s: float) -> Attitude | None:
        """Return the attitude nearest to a time in seconds; None if none is within `MAX_ATTITUDE_AGE_S`."""
        with self._lock:
            return _nearest(self._attitudes, time_s, MAX_ATTITUDE_AGE_S)

    def gimbal_at(self, time_s: float) -> Attitude | None:
        """Return the gimbal's attitude nearest to a time in seconds; None as for `attitude_at`."""
        with self._lock:
            return _nearest(self._gimbals, time_s, MAX_ATTITUDE_AGE_S)


class Geolocator:
    """Computes the latitude and longitude of regions on level ground.

    Args:
        camera: Field of view of the camera, and how it is mounted.
        poses: Poses of the vehicle.
        on_gimbal: The camera is mounted on the gimbal.
        ground_m: Height of the ground above sea level; None takes that of home.
        delay_s: Time in seconds between the capture of a frame and its time stamp.
    """

    def __init__(
        self,
        camera: CameraGeometry,
        poses: PoseHistory,
        on_gimbal: bool = False,
        ground_m: float | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self._camera, self.poses, self._on_gimbal = camera, poses, on_gimbal
        self._ground_m, self._delay_s = ground_m, delay_s

    def locate(self, region: Region, capture_s: float, aspect: float) -> GeoPoint | None:
        """Return where a region is.

        Args:
            region: The region, in relative coordinates.
            capture_s: Time stamp of its frame, in seconds on the clock of the poses.
            aspect: Height of the frame divided by its width.

        Returns:
            The place of its centre. None if its position is only predicted, the pose is missing or old, the
            satellite fix is lost, or the region is so near to the horizon, or the vehicle so near to the
            ground, that the error could be as large as the distance.
        """
        time_s = capture_s - self._delay_s
        position = self.poses.position_at(time_s)
        rotated = self._rotation_at(time_s)
        if region.coasting or position is None or rotated is None or not self.poses.has_fix:
            return None
        rotation, rate = rotated
        moved = position.velocity * (time_s - position.time_s)
        home_m = position.altitude_m - position.height_m
        ground_m = home_m if self._ground_m is None else self._ground_m
        height = position.altitude_m - float(moved[2]) - ground_m
        ray = rotation @ np.array(self._camera.ray(region.x, region.y, aspect))
        depression = math.atan2(ray[2], math.hypot(ray[0], ray[1]))
        timing_sd = rate * TIMING_SD_S
        shape_sd = self._angular_height(region, aspect) / 4
        angle_sd = math.hypot(math.radians(ATTITUDE_SD_DEG), timing_sd, shape_sd)
        height_sd = self.poses.height_sd_m
        if depression < MIN_SIGMAS * angle_sd or height < MIN_SIGMAS * height_sd:
            return None
        north, east = (float(moved[axis] + ray[axis] * height / ray[2]) for axis in (0, 1))
        slant, along = height / math.sin(depression), height / math.tan(depression)
        speed = float(np.linalg.norm(position.velocity))
        error = math.hypot(
            slant / math.sin(depression) * angle_sd,  # of the elevation
            height_sd / math.tan(depression),
            slant * angle_sd,  # across the direction of view
            along * math.radians(HEADING_SD_DEG),
            self.poses.position_sd_m,
            speed * TIMING_SD_S,
        )
        if abs(position.latitude_deg) > MAX_LATITUDE_DEG:
            return None
        latitude, longitude = _offset(position, north, east)
        heading = math.degrees(math.atan2(ray[1], ray[0])) % 360
        return GeoPoint(latitude, longitude, ground_m, error, slant, heading)

    def horizon(self, capture_s: float, aspect: float) -> tuple[ImagePoint, ImagePoint] | None:
        """Return the two points where the horizon leaves a frame, in relative coordinates.

        Args:
            capture_s: Time stamp of the frame, in seconds on the clock of the poses.
            aspect: Height of the frame divided by its width.

        Returns:
            The points; None if the horizon is not in the frame, or the attitude is missing or old.
        """
        rotated = self._rotation_at(capture_s - self._delay_s)
        if rotated is None:
            return None
        # A pinhole camera shows it as a line: the downward part of a ray is linear in the position.
        corner, across, below = (
            float(rotated[0][2] @ np.array(self._camera.ray(x, y, aspect)))
            for x, y in ((0, 0), (1, 0), (0, 1))
        )
        slope_x, slope_y = across - corner, below - corner
        points = [(x, -(corner + slope_x * x) / slope_y) for x in (0.0, 1.0) if slope_y]
        points += [(-(corner + slope_y * y) / slope_x, y) for y in (0.0, 1.0) if slope_x]
        inside = [point for point in points if all(-1e-9 <= value <= 1 + 1e-9 for value in point)]
        first, last = min(inside, default=None), max(inside, default=None)
        return None if first is None or last is None or first == last else (first, last)

    def _rotation_at(self, time_s: float) -> tuple[NDArray[np.float64], float] | None:
        """Return the rotation (3, 3) from the camera's mount to north, east, down, and its rate."""
        vehicle, gimbal = self.poses.attitude_at(time_s), self.poses.gimbal_at(time_s)
        camera = gimbal if self._on_gimbal else vehicle
        if camera is None:
            return None
        rate = float(np.linalg.norm(camera.rate))
        if not camera.is_relative:
            return camera.rotation_at(time_s), rate
        if vehicle is None:
            return None
        heading = math.atan2(*vehicle.rotation_at(time_s)[[1, 0], [0, 0]])
        cosine, sine = math.cos(heading), math.sin(heading)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        rate += float(np.linalg.norm(vehicle.rate))
        return np.asarray(turn @ camera.rotation_at(time_s)), rate

    def _angular_height(self, region: Region, aspect: float) -> float:
        """Return the angle that the height of a region fills, in radians."""
        height = (region.bottom - region.top) * aspect  # in frame widths
        return 2 * math.atan(height * math.tan(math.radians(self._camera.fov_deg) / 2))


def euler_to_rotation(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) from a vehicle's axes to north, east, down; angles in radians."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cp * cy, sr * sp * cy - cr * sy, cr * sp * cy + sr * sy],
            [cp * sy, sr * sp * sy + cr * cy, cr * sp * sy - sr * cy],
            [-sp, sr * cp, cr * cp],
        ]
    )


def quaternion_to_rotation(w: float, x: float, y: float, z: float) -> NDArray[np.float64] | None:
    """Return the rotation (3, 3) of a quaternion; None if it is no unit quaternion."""
    square = w * w + x * x + y * y + z * z
    if not 0.9 < square < 1.1:
        return None
    w, x, y, z = (value / math.sqrt(square) for value in (w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _nearest(samples: deque[Sample], time_s: float, max_age_s: float) -> Sample | None:
    """Return the sample nearest to a time; None if it is too far away."""
    nearest, smallest_s = None, math.inf
    for sample in reversed(samples):  # they are in order of time, and the newest are asked for most
        distance_s = abs(sample.time_s - time_s)
        if distance_s > smallest_s:
            break
        nearest, smallest_s = sample, distance_s
    return nearest if smallest_s <= max_age_s else None


def _offset(position: Position, north: float, east: float) -> tuple[float, float]:
    """Return latitude and longitude in degrees of a point some metres from a position (WGS84)."""
    latitude = math.radians(position.latitude_deg)
    squeeze = 1 - _WGS84_E2 * math.sin(latitude) ** 2
    meridian = _WGS84_RADIUS_M * (1 - _WGS84_E2) / squeeze**1.5
    normal = _WGS84_RADIUS_M / math.sqrt(squeeze)
    longitude = position.longitude_deg + math.degrees(east / (normal * math.cos(latitude)))
    return position.latitude_deg + math.degrees(north / meridian), (longitude + 180) % 360 - 180
