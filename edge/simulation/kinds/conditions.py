"""Conditions of a scene: day with clouds, low sun, night, thermal camera."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edge.simulation.camera import Array
from edge.simulation.camera_effects import CameraEffects
from edge.simulation.kinds.catalogue import BLANKS, Setting
from edge.simulation.kinds.night import (
    LAMP_COLOURS,
    lit_mesh,
    night_actor,
    night_effects,
    sample_lamp_points,
    sample_light_map,
    with_lit_windows,
)
from edge.simulation.kinds.thermal import (
    sample_temperatures,
    thermal_effects,
    warm_actor,
    warm_ground,
    warm_scenery,
)
from edge.simulation.layers.clouds import CloudShadows, CloudySky
from edge.simulation.layers.layer import Layer
from edge.simulation.layers.lights import Beams, Lamps, LowSun
from edge.simulation.layers.skyline import sample_town
from edge.simulation.layers.wakes import Wakes
from edge.simulation.layers.water import Breakers, Flecks
from edge.simulation.materials import Image, Rng, sample_noise
from edge.simulation.scene_builder import Light, Scene, SceneLayout, sample_light
from edge.simulation.terrain import reduce_texture

CLOUD_TILE = 256


def sample_kind_light(rng: Rng, layout: SceneLayout, condition: str) -> Light:
    """Sample sun and sky under a condition."""
    light = sample_light(rng, layout)
    if condition == "low-sun":
        azimuth, elevation = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 0.3)
        flat = math.cos(elevation)
        sun = np.array([flat * math.sin(azimuth), flat * math.cos(azimuth), math.sin(elevation)])
        warm = np.array([rng.uniform(0.55, 0.9), rng.uniform(0.8, 0.97), 1.0])
        sky = np.stack([light.sky[0] * rng.uniform(0.6, 1.0), np.minimum(light.sky[1] * 1.2, 245) * warm])
        glare = float(rng.uniform(0.8, 1.6)) if layout.site in ("sea", "coast") else 0.0
        return replace(light, sun=sun, shadow=float(rng.uniform(0.4, 0.75)), sky=sky, glare=glare)
    if condition in ("night", "thermal"):
        return replace(light, shadow=0.0, glare=0.0)
    return light


def apply_condition(rng: Rng, scene: Scene, setting: Setting, layout: SceneLayout, twins: bool) -> Scene:
    """Return the scene under the light and sensor of its setting.

    Args:
        rng: Random numbers.
        scene: The scene by day.
        setting: Its setting.
        layout: Its site and scale.
        twins: Neither lamps nor warm engines may tell which actor moves.
    """
    effects = sample_harder_effects(rng, scene.effects, setting)
    scene = replace(scene, effects=effects)
    if setting.condition == "thermal":
        return make_thermal(rng, scene, twins)
    if setting.condition == "night":
        return make_night(rng, scene, layout, twins)
    far: list[Layer] = []
    if setting.place == "sky" or rng.random() < 0.55:
        far.append(sample_sky(rng, scene.sky))
    if setting.place not in BLANKS and rng.random() < (0.75 if layout.site in ("sea", "coast") else 0.45):
        far.append(sample_town(rng, scene.sky[1]))
    ground, near = scene.ground_layers, scene.near_layers
    if scene.shadow and len(scene.scenery) and rng.random() < 0.15:
        near = (*near, sample_glints(rng, scene))
    if setting.condition == "day":
        if rng.random() < 0.3:
            ground = (*ground, sample_cloud_shadows(rng, layout.view_m))
        return replace(scene, far_layers=tuple(far), ground_layers=ground, near_layers=near)
    flight = scene.flight
    if rng.random() < 0.5:
        flight = replace(
            flight, yaw=math.atan2(scene.sun[0], scene.sun[1]) + rng.normal(0, 0.4), yaw_rate=0.0
        )
    gain = np.array(effects.gain) * np.array([0.78, 0.93, 1.08]) ** rng.uniform(0.2, 0.9)
    colour = np.array([150.0, 215, 250]) * rng.uniform(0.5, 1.0)
    near = (*near, LowSun(scene.sun, colour, float(rng.uniform(0.05, 0.16))))
    warm = replace(effects, gain=(float(gain[0]), float(gain[1]), float(gain[2])))
    return replace(scene, far_layers=tuple(far), near_layers=near, flight=flight, effects=warm)


def sample_harder_effects(rng: Rng, effects: CameraEffects, setting: Setting) -> CameraEffects:
    """Sample hard compression and a rolling shutter; most cameras have neither."""
    if setting.place == "noise":
        effects = replace(
            effects,
            noise=float(rng.uniform(2, 30)),
            colour_noise=float(rng.choice([0.0, rng.uniform(2, 20)])),
        )
    hard = rng.random() < 0.25
    return replace(
        effects,
        quality=int(rng.integers(10, 40)) if hard else effects.quality,
        detail=float(rng.uniform(0.4, 0.8)) if rng.random() < 0.15 else 1.0,
        readout_s=float(rng.uniform(0.008, 0.03)) if rng.random() < 0.5 else 0.0,
        jello=float(rng.uniform(0.0005, 0.003)) if rng.random() < 0.15 else 0.0,
    )


def sample_cloud_tile(rng: Rng, level: int, edge: float, softness: float) -> Image:
    """Return periodic clouds (256, 256): 255 is cloud and 0 is clear."""
    tone = sample_noise(rng, level, CLOUD_TILE).astype(np.float32)
    return np.asarray(np.clip((tone - edge) * softness + 128, 0, 255), np.uint8)


def sample_cloud_shadows(rng: Rng, view_m: float) -> CloudShadows:
    """Sample shadows of clouds that drift over the ground."""
    cloud = sample_cloud_tile(rng, int(rng.integers(0, 2)), rng.uniform(110, 150), rng.uniform(3, 12))
    strength, angle = rng.uniform(0.25, 0.6), rng.uniform(0, 2 * math.pi)
    speed = view_m * rng.uniform(0.02, 0.15)
    light = (255 * (1 - strength * cloud / 255)).astype(np.uint8)
    drift = (speed * math.sin(angle), speed * math.cos(angle))
    return CloudShadows(light, view_m * rng.uniform(1.0, 4.0), drift)


def sample_sky(rng: Rng, sky: Array) -> CloudySky:
    """Sample a cover of clouds."""
    cloud = sample_cloud_tile(rng, int(rng.integers(0, 3)), rng.uniform(90, 160), rng.uniform(1.0, 5.0))
    bright = rng.random() < 0.7
    colour = np.minimum(sky[1] * 0.3 + 175, 252) if bright else sky[1] * rng.uniform(0.55, 0.9)
    return CloudySky(cloud, rng.uniform(2000, 9000), 1000.0, (rng.uniform(-15, 15), 8.0), colour)


def sample_glints(rng: Rng, scene: Scene) -> Lamps:
    """Sample glints of the sun on glass and metal: points on some of the objects."""
    chosen = rng.integers(len(scene.scenery), size=int(rng.integers(1, 7)))
    tops = np.array([scene.scenery[k].bounds()[1, 2] for k in chosen])
    return Lamps(
        points=np.column_stack([scene.scenery_positions[chosen], tops * rng.uniform(0.5, 1, len(chosen))]),
        radii=rng.uniform(0.05, 0.3, len(chosen)),
        colours=np.full((len(chosen), 3), 255.0),
        glow=float(rng.uniform(0.003, 0.01)),
        world_m=scene.ground.world_m,
    )


def with_foam(layers: tuple[Layer, ...], grey: float) -> tuple[Layer, ...]:
    """Return the layers with foam of another grey level, and without flecks of light."""
    level = int(min(max(grey, 5), 250))
    return tuple(
        replace(layer, grey=level) if isinstance(layer, Wakes | Breakers) else layer
        for layer in layers
        if not isinstance(layer, Flecks)
    )


def make_thermal(rng: Rng, scene: Scene, twins: bool) -> Scene:
    """Return the scene as a thermal camera sees it. Some engines of parked vehicles are still warm."""
    warm = sample_temperatures(rng)
    texture = warm_ground(rng, scene.ground.levels[0], warm)
    sky = np.full(3, warm.sky)
    near_sky = np.full(3, 0.5 * (warm.sky + warm.ground))
    has_town = rng.random() < 0.4
    return replace(
        scene,
        ground=replace(scene.ground, levels=reduce_texture(texture)),
        scenery=tuple(warm_scenery(rng, mesh, warm) for mesh in scene.scenery),
        actors=tuple(
            warm_actor(actor, warm, not twins and (actor.is_moving or bool(rng.random() < 0.2)))
            for actor in scene.actors
        ),
        bystanders=tuple(warm_actor(actor, warm, False) for actor in scene.bystanders),
        ambient=1.0,
        sky=np.stack([sky, near_sky]),
        haze_m=scene.haze_m * 2,
        far_layers=(sample_town(rng, near_sky, 0.5, in_grey=True),) if has_town else (),
        ground_layers=with_foam(scene.ground_layers, warm.ground + rng.normal(0, 25)),
        effects=thermal_effects(rng, scene.effects),
    )


def make_night(rng: Rng, scene: Scene, layout: SceneLayout, twins: bool) -> Scene:
    """Return the scene at night."""
    lamps = sample_lamp_points(rng, layout)
    colour = np.array(LAMP_COLOURS[int(rng.integers(len(LAMP_COLOURS)))])
    light = sample_light_map(rng, layout.world_m, lamps, colour)
    scenery = tuple(
        lit_mesh(with_lit_windows(rng, mesh), light.at(*position))
        for mesh, position in zip(scene.scenery, scene.scenery_positions, strict=True)
    )
    heights = np.full(len(lamps), rng.uniform(4, 9))
    shown = Lamps(
        points=np.column_stack([lamps, heights]) if len(lamps) else np.zeros((0, 3)),
        radii=np.full(len(lamps), rng.uniform(0.12, 0.3)),
        colours=np.tile(np.minimum(colour * 1.3, 255), (len(lamps), 1)),
        glow=float(rng.uniform(0.004, 0.02)),
        world_m=layout.world_m,
    )
    beams: tuple[Layer, ...] = () if twins else (Beams(layout.world_m, float(rng.uniform(40, 120))),)
    foam = float(245 * light.factors.min() * 1.3)
    dark = np.array([28.0, 20, 14]) * rng.uniform(0.3, 1.6)
    far = (sample_town(rng, dark, 0.12, lit=True),) if rng.random() < 0.6 else ()
    return replace(
        scene,
        ground=replace(scene.ground, levels=reduce_texture(light.apply(scene.ground.levels[0]))),
        scenery=scenery,
        actors=tuple(night_actor(a, light, a.is_moving and not twins) for a in scene.actors),
        bystanders=tuple(night_actor(a, light, False) for a in scene.bystanders),
        ambient=0.9,
        sky=np.stack([dark * 0.6, dark]),
        far_layers=far,
        ground_layers=with_foam(scene.ground_layers, foam) + beams,
        near_layers=(*scene.near_layers, shown),
        effects=night_effects(rng, scene.effects),
    )
