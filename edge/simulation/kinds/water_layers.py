"""Choice of the foam, waves and glints on the water of a place."""

from __future__ import annotations

import math

import cv2
import numpy as np

from edge.simulation.actors import CRUISE_SPEEDS_M_S
from edge.simulation.camera import Array, SineNoise
from edge.simulation.kinds.catalogue import Setting
from edge.simulation.layers.layer import Layer
from edge.simulation.layers.wakes import OldWake, Wakes
from edge.simulation.layers.water import Breakers, Flecks, WaterMask
from edge.simulation.materials import Image, Rng, sample_noise
from edge.simulation.scene_builder import SceneLayout
from edge.simulation.terrain import Ground
from edge.simulation.trajectories import WanderTrajectory

TILE = 512


def sample_water_layers(
    rng: Rng, layout: SceneLayout, setting: Setting, ground: Ground, sun: Array
) -> tuple[Layer, ...]:
    """Sample breakers, whitecaps, glints and wakes; none on land."""
    if ground.water is None:
        return ()
    water = WaterMask(ground.water, layout.world_m)
    layers: list[Layer] = []
    if setting.place == "surf" or (setting.place == "coast" and rng.random() < 0.6):
        layers.append(sample_breakers(rng, layout, water))
    if rng.random() < 0.25:
        layers.append(sample_whitecaps(rng, layout, water))
    if setting.condition in ("day", "low-sun") and rng.random() < (
        0.8 if setting.condition == "low-sun" else 0.3
    ):
        layers.append(sample_glints(rng, layout, water, sun))
    layers.append(sample_wakes(rng, layout, setting, water))
    return tuple(layers)


def sample_wakes(rng: Rng, layout: SceneLayout, setting: Setting, water: WaterMask) -> Wakes:
    """Sample the style of the wakes, and old wakes of boats that have left."""
    view_m, centre = layout.view_m, layout.world_m / 2
    old = []
    if rng.random() < (0.55 if setting.place == "wake" else 0.25):
        for _ in range(int(rng.integers(1, 4))):
            speed, angle = CRUISE_SPEEDS_M_S["boat"], rng.uniform(0, 2 * math.pi)
            length_s = rng.uniform(0.5, 1.6) * view_m / speed
            velocity = (speed * math.sin(angle), speed * math.cos(angle))
            bends = SineNoise.sample(rng, 0.25 * view_m, 2 * length_s)
            x, y = centre + rng.normal(0, 0.45 * view_m, 2)
            path = WanderTrajectory(float(x), float(y), velocity, (bends, bends))
            old.append(OldWake(path, length_s / 2, length_s, float(rng.uniform(0.5, 0.95))))
    return Wakes(
        tuple(old),
        bubbles=sample_bubbles(rng),
        bubble_tile_m=max(rng.uniform(9, 22), 0.22 * view_m),
        water=water,
        life_s=float(rng.uniform(5, 16)),
        spread=float(rng.uniform(0.7, 2.4)),
    )


def sample_bubbles(rng: Rng) -> Image:
    """Return noise (512, 512) of foam: fine grain on larger lumps, over the full range."""
    fine = cv2.addWeighted(sample_noise(rng, 4, TILE), 0.75, sample_noise(rng, 5, TILE), 0.75, -64)
    return np.asarray(cv2.normalize(fine, None, 20, 255, cv2.NORM_MINMAX), np.uint8)  # type: ignore[call-overload]


def sample_whitecaps(rng: Rng, layout: SceneLayout, water: WaterMask) -> Flecks:
    """Sample flecks of foam all over the water."""
    return Flecks(
        sample_noise(rng, 5 if rng.random() < 0.5 else 4, TILE),
        tile_m=layout.view_m * rng.uniform(0.25, 0.7),
        speed=rng.uniform(0.8, 2.5),
        threshold=rng.uniform(115, 145),
        gain=rng.uniform(2.5, 6),
        sun_azimuth=None,
        water=water,
    )


def sample_glints(rng: Rng, layout: SceneLayout, water: WaterMask, sun: Array) -> Flecks:
    """Sample glints below the sun, which flash and vanish."""
    return Flecks(
        sample_noise(rng, 5, TILE),
        tile_m=layout.view_m * rng.uniform(0.35, 1.0),
        speed=layout.view_m * rng.uniform(0.02, 0.06),
        threshold=rng.uniform(75, 105),
        gain=rng.uniform(4, 9),
        sun_azimuth=math.atan2(sun[0], sun[1]),
        water=water,
    )


def sample_breakers(rng: Rng, layout: SceneLayout, water: WaterMask) -> Breakers:
    """Sample rows of breaking waves.

    A crest runs along the rows of the tile. It breaks in some places only; behind it, thin nets of foam
    remain on the water.
    """
    count = int(rng.integers(1, 4))
    rows = np.arange(TILE)[:, None] / TILE * count
    bend = sample_noise(rng, 0, TILE).astype(np.float32) - 128
    phase = (rows + bend * rng.uniform(0.0003, 0.0013) * count) % 1.0
    lumps = sample_noise(rng, 3, TILE).astype(np.float32)
    fine = sample_bubbles(rng).astype(np.float32)
    where = sample_noise(rng, 0, TILE).astype(np.float32)
    breaks = np.clip((where - rng.uniform(85, 130)) / 12, 0, 1)
    # The front is sharp ahead of the crest and thins out behind it.
    behind = np.where(phase < 0.9, phase / 0.9, 0.0) ** rng.uniform(9, 25)
    crest = np.clip(behind * 2.2, 0, 1) * breaks
    foam = np.clip(crest * 400 - (255 - fine) * 0.8 - (128 - lumps) * 0.6, 0, 255)
    net = np.clip(30 - 2.5 * np.abs(lumps - 128), 0, 30) / 30 * np.clip(where - 110, 0, 40) / 40
    foam = np.maximum(foam, net * fine * rng.choice([0.0, rng.uniform(0.2, 0.9)]))
    swell = 128 * (1 + rng.uniform(0.05, 0.3) * np.sin(2 * math.pi * phase))
    return Breakers(
        np.clip(foam, 0, 255).astype(np.uint8),
        np.clip(swell, 0, 255).astype(np.uint8),
        tile_m=layout.view_m * rng.uniform(0.7, 2.2),
        direction=float(rng.uniform(0, 2 * math.pi)),
        speed=float(min(0.06 * layout.view_m, 6.0) * rng.uniform(0.4, 1.2)),
        water=water,
    )
