"""Distant towns, trees and shores along the horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.camera import Array
from edge.simulation.layers.layer import View
from edge.simulation.materials import Image, Rng
from edge.simulation.mesh import FIXED_POINT_BITS, to_fixed_point


@dataclass(frozen=True)
class DistantTown:
    """Silhouettes that stand on the horizon, the farthest first.

    Attributes:
        azimuths: (N,), direction of the middle in radians, clockwise from north.
        halves: (N,), half width in radians.
        tops: (N,), height above the horizon in radians.
        feet: (N,), depth below the horizon in radians.
        colours: (N, 3), BGR, with haze.
        pointed: (N,), whether the silhouette ends in a point, as a tree or roof does.
    """

    azimuths: Array
    halves: Array
    tops: Array
    feet: Array
    colours: Array
    pointed: np.typing.NDArray[np.bool_]

    def draw(self, image: Image, view: View) -> None:
        """Draw the silhouettes inside the image."""
        camera = view.camera
        turn = np.remainder(self.azimuths - camera.yaw + math.pi, 2 * math.pi) - math.pi
        reach = math.atan(0.6 * image.shape[1] / camera.focal) + 0.1
        inside = np.flatnonzero(np.abs(turn) < reach + self.halves)
        if not len(inside):
            return
        left, right = (camera.yaw + turn + sign * self.halves for sign in (-1, 1))
        middle = np.where(self.pointed, 0.5, 0.0)
        top = left * (1 - middle) + right * middle, right * (1 - middle) + left * middle
        corners = [(left, -self.feet), (top[0], self.tops), (top[1], self.tops), (right, -self.feet)]
        rays = np.stack([np.stack([np.sin(a), np.cos(a), np.tan(e)], axis=-1) for a, e in corners], axis=1)[
            inside
        ]
        local = rays @ camera.rotation.T
        points = local[..., :2] / np.maximum(local[..., 2:], 0.05) * camera.focal + np.array(camera.centre)
        colours = self.colours[inside].tolist()
        for outline, colour in zip(to_fixed_point(points), colours, strict=True):
            cv2.fillConvexPoly(image, outline, colour, cv2.LINE_AA, FIXED_POINT_BITS)


def sample_town(
    rng: Rng, haze: Array, light: float = 1.0, *, in_grey: bool = False, lit: bool = False
) -> DistantTown:
    """Sample a town along a part of the horizon: a shore, buildings, towers and trees.

    Args:
        rng: Random numbers.
        haze: (3,), BGR of the horizon.
        light: Factor of the brightness of everything that stands on the horizon.
        in_grey: Without colours.
        lit: With lit windows and lamps.
    """
    parts: list[tuple[float, float, float, float, Array, bool]] = []
    scale, clear = math.exp(rng.uniform(math.log(0.4), math.log(2.0))), rng.uniform(0.25, 0.85)

    def add(azimuth: float, half: float, top: float, foot: float, colour: Array, pointed: bool) -> None:
        parts.append((azimuth, half, top, foot, haze * (1 - clear) + light * colour * clear, pointed))

    for _ in range(int(rng.integers(1, 4))):
        start, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 3.0)
        shore = np.array([70.0, 85, 90]) * rng.uniform(0.4, 1.6)
        foot = rng.uniform(0.001, 0.006) * scale
        for piece in np.arange(0, length, 0.1):
            add(start + piece, 0.052, 0.002 * scale, foot, shore, False)
        warm = np.array([0.82, 0.92, 1.0]) ** rng.uniform(0, 2)
        blocks = int(rng.integers(0, 90))
        for _ in range(blocks):
            tall = rng.random() < 0.08
            colour = rng.uniform(90, 245) * warm
            top = scale * (rng.uniform(0.02, 0.06) if tall else rng.uniform(0.003, 0.014))
            half = scale * rng.uniform(0.002, 0.012) * (0.4 if tall else 1.0)
            add(start + rng.uniform(0, length), half, top, foot * 0.5, colour, bool(rng.random() < 0.1))
        for _ in range(int(rng.integers(0, 60))):
            green = np.array([40.0, 65, 50]) * rng.uniform(0.5, 1.4)
            top = scale * rng.uniform(0.003, 0.01)
            add(start + rng.uniform(0, length), 0.5 * top, top, foot, green, bool(rng.random() < 0.5))
        for _ in range(int(rng.integers(10, 90)) if lit else 0):
            high, dot = scale * rng.uniform(0, 0.012), scale * rng.uniform(0.0004, 0.0012)
            warm = np.array([120.0, 200, 255]) * rng.uniform(0.5, 1.0) / max(light, 0.01) / clear
            add(start + rng.uniform(0, length), dot, high + dot, dot - high, warm, False)
    columns = list(zip(*parts, strict=True))
    numbers = [np.array(column) for column in columns]
    colours = np.clip(numbers[4], 0, 255)
    if in_grey:
        colours = np.repeat(colours.mean(1, keepdims=True), 3, axis=1)
    return DistantTown(numbers[0], numbers[1], numbers[2], numbers[3], colours, numbers[5].astype(bool))
