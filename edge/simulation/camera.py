"""Pinhole camera over a flat world, and the flight that moves it.

World axes: x east, y north, z up, in metres; the ground is z = 0. Camera axes: x right, y down, z forward.
Lengths in the image are fractions of its width, so that a scene looks the same at any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NEAR_M = 0.2
"""Smallest depth in metres that is used for projection; points behind it are projected as if there."""


@dataclass(frozen=True)
class SceneCamera:
    """A pinhole camera.

    Attributes:
        position: (3,) in metres.
        rotation: (3, 3), world to camera; its rows are the directions right, down and forward.
        pitch: Radians below the horizon.
        yaw: Radians, clockwise from north.
        focal: Focal length in pixels.
        centre: Centre of the image in pixels.
    """

    position: Array
    rotation: Array
    pitch: float
    yaw: float
    focal: float
    centre: tuple[float, float]

    @staticmethod
    def from_angles(
        position: Array,
        yaw: float,
        pitch: float,
        roll: float,
        focal: float,
        width: int,
        height: int,
    ) -> SceneCamera:
        """Return the camera at a position, with the given angles.

        Args:
            position: (3,) in metres.
            yaw: Radians, clockwise from north.
            pitch: Radians below the horizon.
            roll: Radians about the viewing direction.
            focal: Focal length in pixels.
            width: Width of the image in pixels.
            height: Height of the image in pixels.
        """
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        forward = np.array([cp * sy, cp * cy, -sp])
        right = np.array([cy, -sy, 0.0])
        down = np.cross(forward, right)
        cr, sr = math.cos(roll), math.sin(roll)
        rotation = np.stack([cr * right + sr * down, cr * down - sr * right, forward])
        return SceneCamera(position, rotation, pitch, yaw, focal, (width / 2, height / 2))

    def scaled(self, factor: float) -> SceneCamera:
        """Return the same view for an image that is `factor` times as large."""
        x, y = self.centre
        return replace(self, focal=self.focal * factor, centre=(x * factor, y * factor))

    def project(self, points: Array) -> tuple[Array, Array]:
        """Project world points (..., 3) in metres to pixels (..., 2) and depths (...) in metres."""
        local = (points - self.position) @ self.rotation.T
        depth = local[..., 2]
        safe = np.maximum(depth, NEAR_M)[..., None]
        return local[..., :2] / safe * self.focal + np.array(self.centre), depth

    def ground_to_pixel(self) -> Array:
        """Return the homography (3, 3) from ground metres (x, y, 1) to pixels (x, y, 1)."""
        columns = np.column_stack([self.rotation[:, 0], self.rotation[:, 1], -self.rotation @ self.position])
        intrinsic = np.array([[self.focal, 0, self.centre[0]], [0, self.focal, self.centre[1]], [0, 0, 1.0]])
        return np.asarray(intrinsic @ columns)

    def sine_below_horizon(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """Return the sine of each ray's angle below the horizon, (height, width) float32.

        The sine is positive on the ground and negative in the sky. Rays are not normalised to unit length;
        the error is small for lenses of usual width.
        """
        x = (np.arange(width) + 0.5 - self.centre[0]) / self.focal
        y = (np.arange(height) + 0.5 - self.centre[1]) / self.focal
        rows = y * self.rotation[1, 2] + self.rotation[2, 2]
        below = -(rows[:, None] + (x * self.rotation[0, 2])[None, :])
        return np.asarray(below, np.float32)


@dataclass(frozen=True)
class SineNoise:
    """Smooth random signal of time: a sum of sines with unrelated periods.

    Attributes:
        amplitudes: (n,).
        rates: (n,), radians per second.
        phases: (n,), radians.
    """

    amplitudes: Array
    rates: Array
    phases: Array

    @staticmethod
    def sample(rng: np.random.Generator, amplitude: float, period_s: float, terms: int = 3) -> SineNoise:
        """Sample a signal with a total amplitude of about `amplitude` and periods near `period_s`."""
        return SineNoise(
            amplitude * rng.uniform(0.3, 1.0, terms) / terms,
            2 * math.pi / period_s * rng.uniform(0.5, 1.7, terms),
            rng.uniform(0, 2 * math.pi, terms),
        )

    def value_at(self, time_s: float) -> float:
        """Return the value at a time."""
        return float(np.sum(self.amplitudes * np.sin(self.rates * time_s + self.phases)))


@dataclass(frozen=True)
class CameraFlight:
    """Motion of the camera about a point on the ground.

    Attributes:
        focus: Maps seconds to the ground point (2,) in metres that the camera follows.
        distance_m: Mean distance from the camera to the focus.
        pitch: Mean pitch, radians.
        yaw: Yaw at time 0, radians.
        yaw_rate: Radians per second.
        focal: Focal length in image widths.
        wander: Offset of the image centre from the focus, along two axes, in image widths.
        yaw_noise: Radians.
        pitch_noise: Radians.
        roll_noise: Radians.
        zoom_noise: Of the logarithm of the distance.
        shake: Fast motion along two axes, in image widths.
        min_pitch: Smallest pitch in radians.
        look_up: Angle in radians by which the camera looks above the focus.
    """

    focus: Callable[[float], Array]
    distance_m: float
    pitch: float
    yaw: float
    yaw_rate: float
    focal: float
    wander: tuple[SineNoise, SineNoise]
    yaw_noise: SineNoise
    pitch_noise: SineNoise
    roll_noise: SineNoise
    zoom_noise: SineNoise
    shake: tuple[SineNoise, SineNoise]
    min_pitch: float = 0.16
    look_up: float = 0.0

    def camera(self, time_s: float, width: int, height: int) -> SceneCamera:
        """Return the camera at a time, for an image of width x height pixels."""
        focal = self.focal * width
        shake_x, shake_y = (s.value_at(time_s) / self.focal for s in self.shake)
        yaw = self.yaw + self.yaw_rate * time_s + self.yaw_noise.value_at(time_s)
        pitch = min(max(self.pitch + self.pitch_noise.value_at(time_s), self.min_pitch), 1.53)
        reach = self.distance_m * math.exp(self.zoom_noise.value_at(time_s))
        aside, ahead = (w.value_at(time_s) * reach / self.focal for w in self.wander)
        # At a shallow pitch, the same offset in the image is a longer distance on the ground.
        ahead /= max(math.sin(pitch), 0.3)
        sy, cy = math.sin(yaw), math.cos(yaw)
        spot = self.focus(time_s) + np.array([aside * cy + ahead * sy, -aside * sy + ahead * cy])
        back = reach * math.cos(pitch)
        position = np.array([spot[0] - back * sy, spot[1] - back * cy, reach * math.sin(pitch)])
        return SceneCamera.from_angles(
            position,
            yaw + shake_x,
            pitch + shake_y - self.look_up,
            self.roll_noise.value_at(time_s),
            focal,
            width,
            height,
        )
