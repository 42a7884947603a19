"""Scenes as a thermal camera sees them: warm bodies and engines on cooler ground, in grey."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge.simulation.actors import GLASS, LENGTHS_M, VEHICLES, Actor
from edge.simulation.camera import Array
from edge.simulation.camera_effects import CameraEffects
from edge.simulation.materials import Image, Rng
from edge.simulation.mesh import Mesh

LUMA = np.array([0.114, 0.587, 0.299])
"""Weights of B, G and R in the brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Temperatures:
    """Grey levels of what differs in temperature, 0 to 255; warm is bright.

    Attributes:
        ground: Mean of the ground.
        contrast: Fraction of the ground's visible contrast that remains.
        body: Living bodies.
        engine: Engines that run.
        metal: Bodywork of vehicles and hulls of boats.
        spread: Standard deviation between static objects.
        sky: The sky.
    """

    ground: float
    contrast: float
    body: float
    engine: float
    metal: float
    spread: float
    sky: float


def sample_temperatures(rng: Rng) -> Temperatures:
    """Sample a night with bodies much warmer than the ground, or a day when some are colder."""
    ground = rng.uniform(70, 130)
    hot_day = rng.random() < 0.2
    body = ground + (rng.choice([-1.0, 1.0]) * rng.uniform(35, 60) if hot_day else rng.uniform(75, 160))
    return Temperatures(
        ground=float(ground),
        contrast=float(rng.uniform(0.12, 0.55)),
        body=float(np.clip(body, 5, 250)),
        engine=float(min(ground + rng.uniform(60, 140), 252)),
        metal=float(np.clip(ground + rng.normal(-15, 35), 15, 230)),
        spread=float(rng.uniform(8, 28)),
        sky=float(rng.uniform(8, 60)),
    )


@dataclass(frozen=True)
class WarmActor(Actor):
    """An actor in the grey levels of its temperatures.

    Attributes:
        temperatures: Grey levels of the scene.
        is_running: The engine is warm.
    """

    temperatures: Temperatures
    is_running: bool

    def mesh(self, time_s: float) -> Mesh:
        """Return the mesh at a time, with its foot at the origin."""
        return warm_mesh(super().mesh(time_s), self.appearance.kind, self.is_running, self.temperatures)


def warm_actor(actor: Actor, temperatures: Temperatures, is_running: bool) -> WarmActor:
    """Return an actor as a thermal camera sees it."""
    return WarmActor(
        actor.target_id,
        actor.appearance,
        actor.trajectory,
        actor.phase,
        actor.gait_rate,
        temperatures,
        is_running,
    )


def warm_mesh(mesh: Mesh, kind: str, is_running: bool, temperatures: Temperatures) -> Mesh:
    """Return the mesh of an actor in grey levels."""
    faces, rods = mesh.face_colours @ LUMA, mesh.rod_colours @ LUMA
    if kind in VEHICLES or kind in ("boat", "tower", "object"):
        levels = temperatures.metal + 0.15 * (faces - faces.mean()) if len(faces) else faces
        levels = np.where(np.all(np.isclose(mesh.face_colours, GLASS), axis=1), levels - 14, levels)
        if is_running and kind in LENGTHS_M and len(faces):
            middles = mesh.faces.mean(1)
            # The engine is in front of a vehicle, and at the stern of a boat.
            ahead = middles[:, 1] / LENGTHS_M[kind]
            is_engine = ahead > 0.2 if kind in VEHICLES else ahead < -0.3
            levels = np.where(is_engine, 0.35 * levels + 0.65 * temperatures.engine, levels)
        hot_rods = temperatures.body if kind == "boat" else temperatures.metal
        rods = np.full(len(rods), hot_rods)
    else:
        levels = faces
        rods = temperatures.body + 0.12 * (rods - rods.mean())
    return with_greys(mesh, levels, rods)


def warm_scenery(rng: Rng, mesh: Mesh, temperatures: Temperatures) -> Mesh:
    """Return the mesh of a static object in grey levels around the ground's."""
    faces, rods = mesh.face_colours @ LUMA, mesh.rod_colours @ LUMA
    mean = float(np.concatenate([faces, rods]).mean())
    level = temperatures.ground + rng.normal(0, temperatures.spread)
    return with_greys(mesh, level + 0.3 * (faces - mean), level + 0.3 * (rods - mean))


def with_greys(mesh: Mesh, faces: Array, rods: Array) -> Mesh:
    """Return the mesh with grey levels for its faces (F,) and rods (R,)."""
    return replace(
        mesh,
        face_colours=np.repeat(np.clip(faces, 3, 252)[:, None], 3, axis=1),
        rod_colours=np.repeat(np.clip(rods, 3, 252)[:, None], 3, axis=1),
    )


def warm_ground(rng: Rng, image: Image, temperatures: Temperatures) -> Image:
    """Return a texture in grey levels: materials keep little of their contrast, and may swap it."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    sign = -1.0 if rng.random() < 0.35 else 1.0
    table = temperatures.ground + sign * temperatures.contrast * (np.arange(256) - float(grey.mean()))
    levels = cv2.LUT(grey, np.clip(table, 0, 255).astype(np.uint8))
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_GRAY2BGR), np.uint8)


def thermal_effects(rng: Rng, effects: CameraEffects) -> CameraEffects:
    """Return the effects of a thermal camera: soft, with fixed stripes and automatic gain."""
    return replace(
        effects,
        gain=(1.0, 1.0, 1.0),
        gamma=1.0,
        saturation=1.0,
        blur=float(rng.choice([0.0, 0.001, 0.0025])),
        sharpen=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.5 else 0.0,
        vignette=float(rng.uniform(0, 0.25)) if rng.random() < 0.5 else 0.0,
        noise=float(rng.uniform(0.5, 3.5)),
        stripes=float(rng.uniform(0, 1.2)),
        colour_noise=0.0,
        stretches=bool(rng.random() < 0.7),
        inverts=bool(rng.random() < 0.2),
    )
