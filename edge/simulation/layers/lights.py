"""Lights: lamps and their glow, beams of vehicles, and a low sun."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.actors import LENGTHS_M, VEHICLES
from edge.simulation.camera import Array
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import nearest_copy
from edge.simulation.materials import Image
from edge.simulation.mesh import FIXED_POINT_BITS, to_fixed_point

MIN_DEPTH_M = 0.5
SOFT = 4
"""Glows are computed at this fraction of the image's size, as they are soft."""


@dataclass(frozen=True)
class Lamps:
    """Bright points with a glow.

    Attributes:
        points: (N, 3), in metres.
        radii: (N,), radius of the lamps in metres.
        colours: (N, 3), BGR.
        glow: Radius of the glow in image widths.
        world_m: Width of the world in metres.
    """

    points: Array
    radii: Array
    colours: Array
    glow: float
    world_m: float

    def draw(self, image: Image, view: View) -> None:
        """Add lamps and glow."""
        moved = self.points.copy()
        moved[:, :2] += nearest_copy(self.world_m, view.camera, self.points[:, :2])
        pixels, depth = view.camera.project(moved)
        edge = np.array([image.shape[1], image.shape[0]])
        inside = np.flatnonzero((depth > MIN_DEPTH_M) & np.all((pixels > -20) & (pixels < edge + 20), axis=1))
        if not len(inside):
            return
        glow = np.zeros((image.shape[0] // SOFT, image.shape[1] // SOFT, 3), np.uint8)
        for i in inside.tolist():
            radius = max(view.camera.focal * self.radii[i] / depth[i], 0.9)
            centre = to_fixed_point(pixels[i]).tolist()
            colour, sixteenths = self.colours[i].tolist(), 2**FIXED_POINT_BITS
            cv2.circle(image, centre, round(radius * sixteenths), colour, -1, cv2.LINE_AA, FIXED_POINT_BITS)
            small = [value // SOFT for value in centre]
            wide = max(radius / SOFT, 0.8)
            cv2.circle(glow, small, round(wide * sixteenths), colour, -1, cv2.LINE_AA, FIXED_POINT_BITS)
        soft = cv2.GaussianBlur(glow, (0, 0), max(self.glow * glow.shape[1], 0.8))
        cv2.add(image, cv2.resize(soft, (image.shape[1], image.shape[0])), dst=image)


@dataclass(frozen=True)
class Beams:
    """Light of the headlamps of moving vehicles on the ground.

    Attributes:
        world_m: Width of the world in metres.
        strength: Brightness added in the middle of a beam, 0 to 255.
    """

    world_m: float
    strength: float

    def draw(self, image: Image, view: View) -> None:
        """Add the beams."""
        light = np.zeros((image.shape[0] // SOFT, image.shape[1] // SOFT), np.uint8)
        camera = view.camera.scaled(1 / SOFT)
        for actor in view.actors:
            kind = actor.appearance.kind
            if not actor.is_moving or kind not in VEHICLES:
                continue
            x, y, heading = actor.trajectory.pose_at(view.time_s)
            shift = nearest_copy(self.world_m, camera, np.array([[x, y]]))[0]
            forward = np.array([math.sin(heading), math.cos(heading)])
            side = np.array([forward[1], -forward[0]])
            start = np.array([x, y]) + shift + 0.5 * LENGTHS_M[kind] * forward
            for reach, half, share in ((16.0, 3.2, 0.35), (9.0, 2.2, 0.65), (4.5, 1.5, 1.0)):
                far = start + reach * forward
                quad = np.stack(
                    [start - 0.6 * side, start + 0.6 * side, far + half * side, far - half * side]
                )
                points, depth = camera.project(np.column_stack([quad, np.zeros(4)]))
                if depth.min() > MIN_DEPTH_M:
                    outline = to_fixed_point(points)
                    grey = share * self.strength
                    cv2.fillConvexPoly(light, outline, grey, cv2.LINE_AA, FIXED_POINT_BITS)
        if not light.any():
            return
        soft = cv2.GaussianBlur(light, (0, 0), max(0.008 * light.shape[1], 0.7))
        full = cv2.resize(soft, (image.shape[1], image.shape[0]))
        cv2.add(image, cv2.merge([full] * 3), dst=image)


@dataclass(frozen=True)
class LowSun:
    """A sun near the horizon with its bloom, and the veil that it lays over the image.

    Attributes:
        direction: (3,), towards the sun.
        colour: (3,), BGR.
        bloom: Standard deviation of the bloom in image widths.
    """

    direction: Array
    colour: Array
    bloom: float

    def draw(self, image: Image, view: View) -> None:
        """Add disc, bloom and veil."""
        height, width = image.shape[0] // SOFT, image.shape[1] // SOFT
        camera = view.camera.scaled(1 / SOFT)
        local = camera.rotation @ self.direction
        if local[2] < 0.2:
            return
        x, y = local[:2] / local[2] * camera.focal + np.array(camera.centre)
        dx, dy = (np.arange(width) + 0.5 - x) / width, (np.arange(height) + 0.5 - y) / width
        square = (dx**2)[None, :] + (dy**2)[:, None]
        light = 0.9 * np.exp(-square / (2 * self.bloom**2)) + 0.25 * np.exp(-square / (2 * 0.35**2))
        light += 2.0 * (square < 0.012**2)
        added = np.clip(light[..., None] * self.colour, 0, 255).astype(np.uint8)
        cv2.add(image, cv2.resize(added, (image.shape[1], image.shape[0])), dst=image)
