"""Wakes of boats and surfers: white ribbons of foam that spread, and old wakes without a boat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.actors import Actor
from edge.simulation.camera import Array, SceneCamera
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import nearest_copy, warp_tile
from edge.simulation.layers.water import WaterMask
from edge.simulation.materials import Image, blend
from edge.simulation.mesh import FIXED_POINT_BITS, to_fixed_point
from edge.simulation.trajectories import Trajectory

KNOTS = 22
"""Points of the track of a wake."""
ARMS = (-1.0, -0.45, 0.0, 0.45, 1.0)
"""Position of the ribbons between the left and the right edge of a wake."""
ARM_STRENGTHS = (1.0, 0.5, 0.85, 0.5, 1.0)
WAKERS = {"boat": 1.0, "surfer": 0.35}
"""Kinds of actors that leave a wake, and its size relative to that of a boat."""
MIN_DEPTH_M = 0.5


@dataclass(frozen=True)
class OldWake:
    """Foam that a boat has left behind which is out of the scene.

    Attributes:
        trajectory: Of the boat.
        passed_s: Time since the boat passed the start of the trajectory at time 0, in seconds.
        length_s: Duration of the part that is visible, in seconds.
        strength: 0 to 1.
    """

    trajectory: Trajectory
    passed_s: float
    length_s: float
    strength: float


@dataclass(frozen=True)
class Wakes:
    """Wakes behind all moving boats and surfers, and old wakes.

    Attributes:
        old: Old wakes, which stay in place.
        bubbles: (512, 512), periodic noise that gives the foam its structure.
        bubble_tile_m: Width of the square of bubbles in metres.
        water: Where foam may be.
        life_s: Time until a wake has dissolved, in seconds.
        spread: Growth of the half width, in metres per second, of a boat's wake.
        grey: Grey level of foam.
    """

    old: tuple[OldWake, ...]
    bubbles: Image
    bubble_tile_m: float
    water: WaterMask
    life_s: float
    spread: float
    grey: int = 246

    def draw(self, image: Image, view: View) -> None:
        """Draw the foam on the water."""
        mask = np.zeros((image.shape[0] // 2, image.shape[1] // 2), np.uint8)
        camera = view.camera.scaled(0.5)
        for wake in self.old:
            ages = np.linspace(0, wake.length_s, KNOTS)
            times = wake.passed_s - ages
            fade = 255 * wake.strength * np.sin(np.linspace(0.1, math.pi - 0.1, KNOTS))
            self._draw_track(mask, camera, wake.trajectory, times, ages + 3.0, (1.0, 0.0), fade)
        for actor in view.actors:
            if actor.is_moving and actor.appearance.kind in WAKERS:
                self._draw_wake(mask, camera, actor, view.time_s)
        if not mask.any():
            return
        size = (mask.shape[1], mask.shape[0])
        seen = self.water.seen(camera, size)
        if seen is not None:
            mask = np.asarray(cv2.min(mask, seen), np.uint8)
        bubbles = warp_tile(self.bubbles, self.bubble_tile_m, camera, size, (0.0, 0.0))
        # Where the wake is fresh, all of the water is white; where it is old, only the bubbles' ridges are.
        cover = np.asarray(cv2.add(mask, bubbles, dtype=cv2.CV_16S), np.int16) - 255
        alpha = np.clip(cover * 2, 0, 255).astype(np.uint8)
        full = np.asarray(cv2.resize(alpha, (image.shape[1], image.shape[0])), np.uint8)
        image[:] = blend(image, np.full_like(image, self.grey), full)

    def _draw_wake(self, mask: Image, camera: SceneCamera, actor: Actor, time_s: float) -> None:
        size = WAKERS[actor.appearance.kind] * actor.appearance.size
        life_s = self.life_s * (1.0 if actor.appearance.kind == "boat" else 0.5)
        ages = life_s * np.linspace(0, 1, KNOTS) ** 1.5
        fade = 360 * (1 - ages / life_s) ** 0.7
        self._draw_track(mask, camera, actor.trajectory, time_s - ages, ages, (size, 2.6 * size), fade)

    def _draw_track(
        self,
        mask: Image,
        camera: SceneCamera,
        trajectory: Trajectory,
        times: Array,
        ages: Array,
        size_and_back: tuple[float, float],
        fade: Array,
    ) -> None:
        """Draw the ribbons along a track: quads between its knots."""
        size, back_m = size_and_back
        poses = np.array([trajectory.pose_at(float(t)) for t in times])
        forward = np.column_stack([np.sin(poses[:, 2]), np.cos(poses[:, 2])])
        track = poses[:, :2] - back_m * forward
        track += nearest_copy(self.water.world_m, camera, poses[:1, :2])
        side = np.column_stack([forward[:, 1], -forward[:, 0]])
        half = size * (0.9 + self.spread * ages**0.8)
        width = size * 0.25 + 0.3 * half
        for arm, strength in zip(ARMS, ARM_STRENGTHS, strict=True):
            wobble = 0.15 * width * np.sin(7.0 * times + 3 * arm)
            middle, breadth = arm * half + wobble, width * (0.7 if arm else 1.0)
            edges = [track + side * (middle + sign * breadth)[:, None] for sign in (-1, 1)]
            quads = np.stack([edges[0][:-1], edges[1][:-1], edges[1][1:], edges[0][1:]], axis=1)
            points, depth = camera.project(np.concatenate([quads, np.zeros((len(quads), 4, 1))], axis=-1))
            near = depth.min(-1) > MIN_DEPTH_M
            greys = np.clip(strength * fade[:-1], 0, 255)[near].tolist()
            for quad, grey in zip(to_fixed_point(points[near])[::-1], greys[::-1], strict=True):
                cv2.fillConvexPoly(mask, quad, grey, cv2.LINE_8, FIXED_POINT_BITS)
