"""Light of the night: little from the sky, pools of light below lamps, beams and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge.simulation.actors import VEHICLES, Actor
from edge.simulation.camera import Array
from edge.simulation.camera_effects import CameraEffects
from edge.simulation.materials import Image, Rng
from edge.simulation.mesh import Mesh
from edge.simulation.scene_builder import SceneLayout

MAP_SIZE = 256
"""Side of the map of light in pixels."""
LAMP_COLOURS = ((110.0, 190.0, 255.0), (170.0, 225.0, 255.0), (250.0, 250.0, 245.0))
"""BGR of sodium, warm white and cold white lamps."""


@dataclass(frozen=True)
class LightMap:
    """Light on the ground.

    Attributes:
        factors: (n, n, 3), factors of the colours B, G and R.
        world_m: Width of the world in metres.
    """

    factors: np.typing.NDArray[np.float32]
    world_m: float

    def at(self, x: float, y: float) -> Array:
        """Return the factors (3,) at a point in metres."""
        size = self.factors.shape[0]
        row, column = int(y / self.world_m * size) % size, int(x / self.world_m * size) % size
        return np.asarray(self.factors[row, column], np.float64)

    def apply(self, image: Image) -> Image:
        """Return the texture of the ground under this light."""
        size = (image.shape[1], image.shape[0])
        return np.asarray(np.clip(image * cv2.resize(self.factors, size), 0, 255), np.uint8)


def sample_lamp_points(rng: Rng, layout: SceneLayout) -> Array:
    """Sample places of street lamps (N, 2) in metres: along the roads, else scattered."""
    gap = max(rng.uniform(22, 45), layout.world_m / 14)
    if layout.roads:
        points = []
        for road in layout.roads:
            side = 1 if rng.random() < 0.5 else -1
            along = np.arange(gap / 2, layout.world_m, gap)
            points.append(np.column_stack(road.point(along, side * (road.width_m / 2 + 1.2))))
        return np.concatenate(points)
    count = int(rng.integers(0, 10)) if layout.site != "sea" else int(rng.integers(0, 4))
    return np.asarray(rng.normal(layout.world_m / 2, 0.5 * layout.view_m, (count, 2)))


def sample_light_map(rng: Rng, world_m: float, lamps: Array, colour: Array) -> LightMap:
    """Sample the light of a night with lamps at points (N, 2) in metres."""
    sky = rng.uniform(0.1, 0.38) * np.array([1.12, 1.0, 0.88]) ** rng.uniform(-1, 2)
    reach = rng.uniform(5, 11) * MAP_SIZE / world_m
    pools = np.zeros((MAP_SIZE, MAP_SIZE), np.float32)
    rows = np.arange(MAP_SIZE, dtype=np.float32) + 0.5
    for x, y in lamps * MAP_SIZE / world_m:
        dx = (rows - x + MAP_SIZE / 2) % MAP_SIZE - MAP_SIZE / 2
        dy = (rows - y + MAP_SIZE / 2) % MAP_SIZE - MAP_SIZE / 2
        pools += np.outer(np.exp(-((dy / reach) ** 2) / 2), np.exp(-((dx / reach) ** 2) / 2))
    strength = rng.uniform(0.35, 0.9)
    factors = sky + np.minimum(pools, 1.2)[..., None] * strength * colour / 255
    return LightMap(np.asarray(factors, np.float32), world_m)


@dataclass(frozen=True)
class NightActor(Actor):
    """An actor under the light where it is.

    Attributes:
        light: Light of the scene.
        shines: The lamps of a vehicle are on.
    """

    light: LightMap
    shines: bool

    def mesh(self, time_s: float) -> Mesh:
        """Return the mesh at a time, with its foot at the origin."""
        mesh = super().mesh(time_s)
        x, y, _ = self.trajectory.pose_at(time_s)
        if self.shines:
            # A vehicle's rods are its lamps; they look larger than they are.
            mesh = replace(mesh, radii=mesh.radii * 1.7, rod_colours=np.minimum(mesh.rod_colours * 1.6, 255))
        return lit_mesh(mesh, self.light.at(x, y), self.shines)


def night_actor(actor: Actor, light: LightMap, shines: bool) -> NightActor:
    """Return an actor under the light of a night."""
    shines = shines and actor.appearance.kind in VEHICLES
    return NightActor(
        actor.target_id, actor.appearance, actor.trajectory, actor.phase, actor.gait_rate, light, shines
    )


def lit_mesh(mesh: Mesh, factors: Array, lamps_shine: bool = False) -> Mesh:
    """Return the mesh with its colours multiplied by factors (3,)."""
    rods = mesh.rod_colours if lamps_shine else mesh.rod_colours * factors
    return replace(mesh, face_colours=mesh.face_colours * factors, rod_colours=rods)


def with_lit_windows(rng: Rng, mesh: Mesh) -> Mesh:
    """Return a building with some of its panes lit."""
    colours = mesh.face_colours.copy()
    if len(colours) > 12:
        # The panes are the many small faces after the first box.
        lit = np.flatnonzero(rng.random(len(colours)) < 0.12)
        colours[lit[lit > 5]] = np.array([130.0, 205, 250]) * 3
    return replace(mesh, face_colours=colours)


def night_effects(rng: Rng, effects: CameraEffects) -> CameraEffects:
    """Return the effects of a camera at its limit: noise, long exposure, raised tones."""
    return replace(
        effects,
        gamma=float(rng.uniform(0.55, 0.95)),
        noise=float(rng.uniform(1, 9)),
        colour_noise=float(rng.uniform(0, 9)),
        saturation=float(rng.uniform(0.3, 1.0)),
        exposure_s=float(rng.uniform(0.01, 0.04)),
        blur=float(rng.choice([0.0, 0.0015, 0.003])),
    )
