"""Projection of the flat world, and the flight that carries the camera through it.

World axes: x east, y north, z up, in metres; the ground is z = 0. Camera axes: x right, y down,
z forward. Lengths on the picture are fractions of its width, so that a scene looks the same at
any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NEAR_M = 0.2


@dataclass(frozen=True)
class SceneCamera:
    """A pinhole camera, looking down by `pitch` radians from its `position`."""

    position: Array  # (3,) metres
    rotation: Array  # (3, 3), rows: right, down, forward
    pitch: float  # radians below the horizon
    yaw: float  # radians, clockwise from north
    focal: float  # pixels
    centre: tuple[float, float]  # pixels

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
        """A camera at `position` with angles in radians and `focal` in pixels."""
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        forward = np.array([cp * sy, cp * cy, -sp])
        right = np.array([cy, -sy, 0.0])
        down = np.cross(forward, right)
        cr, sr = math.cos(roll), math.sin(roll)
        rotation = np.stack([cr * right + sr * down, cr * down - sr * right, forward])
        return SceneCamera(position, rotation, pitch, yaw, focal, (width / 2, height / 2))

    def scaled(self, factor: float) -> SceneCamera:
        """The same view on a picture `factor` times as large."""
        x, y = self.centre
        return replace(self, focal=self.focal * factor, centre=(x * factor, y * factor))

    def project(self, points: Array) -> tuple[Array, Array]:
        """World points (..., 3) in metres to pixels (..., 2) and depths (...) in metres."""
        local = (points - self.position) @ self.rotation.T
        depth = local[..., 2]
        safe = np.maximum(depth, NEAR_M)[..., None]
        return local[..., :2] / safe * self.focal + np.array(self.centre), depth

    def ground_to_pixel(self) -> Array:
        """Homography (3, 3) from ground metres (x, y, 1) to pixels (x, y, 1)."""
        columns = np.column_stack([self.rotation[:, 0], self.rotation[:, 1], -self.rotation @ self.position])
        intrinsic = np.array([[self.focal, 0, self.centre[0]], [0, self.focal, self.centre[1]], [0, 0, 1.0]])
        return np.asarray(intrinsic @ columns)

    def horizon(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """Sine of the angle below the horizon of each pixel's ray, (height, width) float32.

        Positive on the ground, negative in the sky; rays are not normalised to length one, which
        matters little for a lens of usual width.
        """
        x = (np.arange(width) + 0.5 - self.centre[0]) / self.focal
        y = (np.arange(height) + 0.5 - self.centre[1]) / self.focal
        rows = y * self.rotation[1, 2] + self.rotation[2, 2]
        below = -(rows[:, None] + (x * self.rotation[0, 2])[None, :])
        return np.asarray(below, np.float32)


@dataclass(frozen=True)
class SineNoise:
    """A smooth, endless wander: a sum of sines with unrelated periods."""

    amplitudes: Array  # (n,)
    rates: Array  # (n,) radians a second
    phases: Array  # (n,) radians

    @staticmethod
    def sample(rng: np.random.Generator, amplitude: float, period_s: float, terms: int = 3) -> SineNoise:
        """Terms of about `amplitude` in all, with periods near `period_s`."""
        return SineNoise(
            amplitude * rng.uniform(0.3, 1.0, terms) / terms,
            2 * math.pi / period_s * rng.uniform(0.5, 1.7, terms),
            rng.uniform(0, 2 * math.pi, terms),
        )

    def value_at(self, time_s: float) -> float:
        """Value at a time."""
        return float(np.sum(self.amplitudes * np.sin(self.rates * time_s + self.phases)))


@dataclass(frozen=True)
class CameraFlight:
    """How the camera moves: what it looks at, from where, and how steadily."""

    focus: Callable[[float], Array]  # seconds -> ground point (2,) in metres
    distance_m: float
    pitch: float
    yaw: float
    turn: float  # radians a second
    focal: float  # frame widths
    wander: tuple[SineNoise, SineNoise]  # of the looked-at point, in frame widths
    swing: SineNoise  # of yaw, radians
    nod: SineNoise  # of pitch, radians
    lean: SineNoise  # of roll, radians
    zoom: SineNoise  # of the logarithm of the range
    shake: tuple[SineNoise, SineNoise]  # quick, in frame widths

    def camera(self, time_s: float, width: int, height: int) -> SceneCamera:
        """The camera at a time, for a picture of width x height pixels."""
        focal = self.focal * width
        shake_x, shake_y = (s.value_at(time_s) / self.focal for s in self.shake)
        yaw = self.yaw + self.turn * time_s + self.swing.value_at(time_s)
        pitch = min(max(self.pitch + self.nod.value_at(time_s), 0.16), 1.53)
        reach = self.distance_m * math.exp(self.zoom.value_at(time_s))
        aside, ahead = (w.value_at(time_s) * reach / self.focal for w in self.wander)
        ahead /= max(math.sin(pitch), 0.3)
        sy, cy = math.sin(yaw), math.cos(yaw)
        spot = self.focus(time_s) + np.array([aside * cy + ahead * sy, -aside * sy + ahead * cy])
        back = reach * math.cos(pitch)
        position = np.array([spot[0] - back * sy, spot[1] - back * cy, reach * math.sin(pitch)])
        return SceneCamera.from_angles(
            position, yaw + shake_x, pitch + shake_y, self.lean.value_at(time_s), focal, width, height
        )
