"""Renderer of a scene: ground, water, haze and sky, foam, shadows, then objects."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from edge.simulation.actor_placement import FLOATING_KINDS
from edge.simulation.actors import Actor
from edge.simulation.camera import Array, SceneCamera
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import nearest_copy, tile_homography, warp_tile
from edge.simulation.materials import blend
from edge.simulation.mesh import (
    FIXED_POINT_BITS,
    Mesh,
    join_meshes,
    project_polygons,
    project_shadows,
    to_fixed_point,
)
from edge.simulation.scene_builder import Crest, Scene
from edge.simulation.terrain import Ground

Image = npt.NDArray[np.uint8]

MIN_SLOPE = 1e-3
"""Rays less steep than this do not reach visible ground."""
MIN_DEPTH_M = 0.5
"""Objects nearer to the camera are not drawn."""
PUFF_INTERVAL_S = 0.1
PUFF_COUNT = 60
KNOT_STRIDE = 4
"""The track of a wake is computed at every fourth puff and interpolated between."""


def render(scene: Scene, camera: SceneCamera, time_s: float, width: int, height: int) -> Image:
    """Return the image (height, width, 3), BGR, of a scene at a time, before effects of the camera."""
    image = warp_ground(scene.ground, camera, width, height)
    small = camera.scaled(0.5)
    if scene.ground.water is not None:
        draw_waves(image, scene.ground.water, scene, small, time_s)
    view = View(camera, time_s, scene.actors)
    for layer in scene.ground_layers:
        layer.draw(image, view)
    image = draw_haze(image, scene, small)
    for layer in scene.far_layers:
        layer.draw(image, view)
    draw_foam(image, scene, camera, time_s)
    draw_shadows(image, scene, camera, time_s)
    draw_objects(image, scene, camera, time_s)
    for layer in scene.near_layers:
        layer.draw(image, view)
    return image


def placed_mesh(scene: Scene, camera: SceneCamera, actor: Actor, time_s: float) -> Mesh:
    """Return an actor's mesh at its pose."""
    x, y, heading = actor.trajectory.pose_at(time_s)
    shift = nearest_copy(scene.ground.world_m, camera, np.array([[x, y]]))[0]
    return actor.mesh(time_s).placed(x + shift[0], y + shift[1], heading)


def warp_ground(ground: Ground, camera: SceneCamera, width: int, height: int) -> Image:
    """Return the ground as the camera sees it; each row is taken from the level of matching resolution."""
    image = np.zeros((height, width, 3), np.uint8)
    base = ground.levels[0].shape[0]
    texels_per_metre = base / ground.world_m
    slope = (np.arange(height) + 0.5 - camera.centre[1]) / camera.focal
    descent = -(slope * camera.rotation[1, 2] + camera.rotation[2, 2])
    distance = camera.position[2] / np.maximum(descent, MIN_SLOPE)
    texels = (
        distance
        / camera.focal
        * texels_per_metre
        * np.sqrt(np.hypot(slope, 1) / np.maximum(descent, MIN_SLOPE))
    )
    level = np.clip(np.floor(np.log2(texels) + 0.3), 0, len(ground.levels) - 3).astype(int)
    start = int(np.argmax(descent > MIN_SLOPE)) if descent.max() > MIN_SLOPE else height
    start = max(start - int(0.2 * height), 0) if start else 0
    matrix = tile_homography(ground.world_m, camera)
    while start < height:
        stop = start + 1
        while stop < height and level[stop] == level[start]:
            stop += 1
        source = ground.levels[level[start]]
        scale = ground.world_m / source.shape[0]
        to_metres = np.array([[scale, 0, scale / 2], [0, scale, scale / 2], [0, 0, 1]])
        to_strip = np.array([[1, 0, -0.5], [0, 1, -0.5 - start], [0, 0, 1]])
        image[start:stop] = cv2.warpPerspective(
            source,
            to_strip @ matrix @ to_metres,
            (width, stop - start),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        start = stop
    return image


def draw_waves(image: Image, water: Image, scene: Scene, camera: SceneCamera, time_s: float) -> None:
    """Draw waves and glare on the water.

    Args:
        image: The ground, drawn on in place.
        water: Water mask of the ground.
        scene: The scene.
        camera: Camera for an image of half the size.
        time_s: Time in seconds.
    """
    ground = scene.ground
    height, width = image.shape[0] // 2, image.shape[1] // 2
    size = (width, height)
    speed = 0.06 * ground.wave_tile_m
    wave = np.zeros((height, width), np.float32)
    for direction, tile_m in (((0.9, 0.35), ground.wave_tile_m), ((-0.45, 0.7), 0.6 * ground.wave_tile_m)):
        drift = (direction[0] * speed * time_s, direction[1] * speed * time_s)
        wave += warp_tile(ground.waves, tile_m, camera, size, drift).astype(np.float32) - 128
    below = np.maximum(camera.sine_below_horizon(width, height), 0.004)
    fade = np.minimum(1.5 * ground.wave_tile_m * below * camera.focal / camera.position[2] / 512, 1.0)
    water_mask = warp_tile(water, ground.world_m, camera, size, (0, 0)).astype(np.float32) / 255
    wave *= fade * water_mask
    light = 0.16 * wave
    if scene.glare:
        sun_angle = math.atan2(scene.sun[0], scene.sun[1]) - camera.yaw
        x = camera.centre[0] + camera.focal * math.tan(
            max(min(math.remainder(sun_angle, 2 * math.pi), 1.2), -1.2)
        )
        across = (np.arange(width) - x) / (0.16 * width)
        glitter = np.exp(-(across**2))[None, :] * np.exp(-(((below - 0.35) / 0.3) ** 2))
        light += scene.glare * glitter * (45 * water_mask + 5.0 * np.maximum(wave - 18 * fade, 0))
    full = cv2.resize(light.astype(np.float32), (image.shape[1], image.shape[0]))
    cv2.add(image, cv2.merge([full] * 3), dst=image, dtype=cv2.CV_8U)


def draw_haze(image: Image, scene: Scene, camera: SceneCamera) -> Image:
    """Return the image with haze over the ground, and with sky and skyline above.

    Args:
        image: The ground.
        scene: The scene.
        camera: Camera for an image of half the size.
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    below = camera.sine_below_horizon(width, height)
    lowest = float(below.min())
    farthest_m = camera.position[2] / max(lowest, MIN_SLOPE)
    # Without a horizon in view, and with the farthest ground near, neither haze nor sky is visible.
    if lowest > 0 and farthest_m < 0.03 * scene.haze_m:
        return image
    transmission = cv2.exp(-camera.position[2] / scene.haze_m / np.maximum(below, MIN_SLOPE))
    transmission[below <= 0] = 0
    up = np.clip(-2.2 * below, 0, 1)[..., None]
    sky = (scene.sky[1] + (scene.sky[0] - scene.sky[1]) * up).astype(np.uint8)
    full_size = (image.shape[1], image.shape[0])
    veil = cv2.resize((255 * (1 - transmission)).astype(np.uint8), full_size)
    image = blend(image, np.asarray(cv2.resize(sky, full_size), np.uint8), np.asarray(veil, np.uint8))
    if lowest < 0:
        draw_skyline(image, scene, camera.scaled(2.0))
    return image


def draw_skyline(image: Image, scene: Scene, camera: SceneCamera) -> None:
    """Draw hills or roofs along the horizon."""
    width = image.shape[1]
    x = np.linspace(0, width, 60)
    ray = (x - camera.centre[0]) / camera.focal
    tilt = camera.rotation[1, 2]
    y = camera.centre[1] - camera.focal * (camera.rotation[2, 2] + ray * camera.rotation[0, 2]) / tilt
    azimuth = (camera.yaw + np.arctan(ray)) / (2 * math.pi) * len(scene.hills)
    tops = np.interp(azimuth, np.arange(len(scene.hills)), scene.hills, period=len(scene.hills))
    outline = np.concatenate(
        [np.column_stack([x, y - tops * width]), np.column_stack([x, y + 0.004 * width])[::-1]]
    )
    cv2.fillPoly(
        image, [to_fixed_point(outline)], (0.82 * scene.sky[1]).tolist(), cv2.LINE_AA, FIXED_POINT_BITS
    )


def draw_foam(image: Image, scene: Scene, camera: SceneCamera, time_s: float) -> None:
    """Draw the wakes of moving actors on water, and breaking waves."""
    puffs = [
        wake_puffs(scene, camera, a, time_s)
        for a in scene.actors
        if scene.draws_wakes and a.is_moving and a.appearance.kind in FLOATING_KINDS[:2]
    ]
    puffs += [breaker_puffs(scene, camera, crest, time_s) for crest in scene.crests]
    if not puffs:
        return
    puff = np.concatenate(puffs)
    angle = np.linspace(0, 2 * math.pi, 9)[:-1]
    ring = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(8)])
    centres = np.column_stack([puff[:, :2], np.zeros(len(puff))])
    outlines, depth = camera.project(centres[:, None] + ring * puff[:, 2, None, None])
    mask = np.zeros(image.shape[:2], np.uint8)
    near = depth.min(-1) > MIN_DEPTH_M
    for polygon, strength in zip(to_fixed_point(outlines[near]), puff[near, 3].tolist(), strict=True):
        cv2.fillConvexPoly(mask, polygon, strength, cv2.LINE_8, FIXED_POINT_BITS)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.004 * image.shape[1])
    small = camera.scaled(0.5)
    grain = warp_tile(
        scene.ground.waves,
        0.35 * scene.ground.wave_tile_m,
        small,
        (image.shape[1] // 2, image.shape[0] // 2),
        (0.02 * scene.ground.wave_tile_m * time_s, 0.0),
    )
    table = np.clip((np.arange(256) - 60.0) * 2.6, 60, 255).astype(np.uint8)
    bubbles = cv2.resize(cv2.LUT(grain, table), (image.shape[1], image.shape[0]))
    alpha = np.asarray(cv2.multiply(soft, bubbles, scale=1 / 255), np.uint8)
    image[:] = blend(image, np.full_like(image, 244), alpha)


def hash_noise(number: Array, salt: float) -> Array:
    """Return a fixed, irregular value in [-1, 1] for each integer."""
    # The common shader idiom fract(sin(x * a) * b).
    return np.asarray(2 * np.modf(np.abs(np.sin(number * 12.9898 + salt) * 43758.5453))[0] - 1)


def wake_puffs(scene: Scene, camera: SceneCamera, actor: Actor, time_s: float) -> Array:
    """Return the puffs of foam behind an actor.

    Returns:
        (n, 4): x, y and radius in metres, strength 0 to 255; the oldest puff first.
    """
    number = np.floor(time_s / PUFF_INTERVAL_S) - np.arange(PUFF_COUNT)[::-1]
    start_s = number * PUFF_INTERVAL_S
    age = np.maximum(time_s - start_s, 0.0)
    knots = KNOT_STRIDE * (number[0] // KNOT_STRIDE + np.arange(PUFF_COUNT // KNOT_STRIDE + 2.0))
    poses = np.array([actor.trajectory.pose_at(float(t)) for t in knots * PUFF_INTERVAL_S])
    poses[:, 2] = np.unwrap(poses[:, 2])
    track = np.column_stack([np.interp(number, knots, column) for column in poses.T])
    now = np.array([actor.trajectory.pose_at(time_s)[:2]])
    size = 1.0 if actor.appearance.kind == "boat" else 0.4
    forward = np.column_stack([np.sin(track[:, 2]), np.cos(track[:, 2])])
    side = np.column_stack([forward[:, 1], -forward[:, 0]])
    track[:, :2] += nearest_copy(scene.ground.world_m, camera, now) - 2.2 * size * forward
    fade = np.minimum(1.6 * (1 - age / (PUFF_COUNT * PUFF_INTERVAL_S)), 1.0)
    gap = float(np.hypot(*(track[-1, :2] - track[0, :2]))) / PUFF_COUNT
    spread = size * (0.7 + 1.1 * age)
    puffs = []
    for arm in (-1.0, 0.0, 1.0) if actor.appearance.variant % 3 else (-1.0, -0.6):
        aside = arm * spread + 0.25 * size * hash_noise(number, arm)
        radius = 0.9 * gap + size * (0.3 + 0.4 * age) * (1 + 0.4 * hash_noise(number, 5 + arm))
        strength = 255 * fade * (0.75 + 0.25 * hash_noise(number, 9 + arm))
        puffs.append(np.column_stack([track[:, :2] + side * aside[:, None], radius, strength]))
    return np.concatenate(puffs)


def breaker_puffs(scene: Scene, camera: SceneCamera, crest: Crest, time_s: float) -> Array:
    """Return the puffs of foam (n, 4) of a breaking wave, as in `wake_puffs`; it recurs periodically."""
    number = np.arange(70.0)
    period = 14.0
    phase = (time_s / period) % 1.0
    fraction = number / 69
    drift = period * phase * crest.velocity + crest.start
    bend = 0.12 * np.sin(5 * fraction + 2 * phase)[:, None] * np.array([crest.along[1], -crest.along[0]])
    position = drift + fraction[:, None] * crest.along + bend
    position += crest.thickness_m * np.column_stack([hash_noise(number, 1), hash_noise(number, 2)])
    position += nearest_copy(scene.ground.world_m, camera, np.array([crest.start]))
    pulse = np.sin(math.pi * phase) * np.sin(math.pi * np.clip(fraction * 1.2 - 0.1, 0, 1))
    return np.column_stack(
        [position, crest.thickness_m * (0.8 + 0.5 * hash_noise(number, 3)), 255 * np.clip(2 * pulse, 0, 1)]
    )


def draw_shadows(image: Image, scene: Scene, camera: SceneCamera, time_s: float) -> None:
    """Draw the actors' shadows. Those of the scenery are part of the ground's texture."""
    if not scene.shadow:
        return
    mask = np.full(image.shape[:2], 255, np.uint8)
    for actor in (*scene.actors, *scene.bystanders):
        strength = 0.4 if actor.appearance.kind in FLOATING_KINDS else 1.0
        for outlines in project_shadows(placed_mesh(scene, camera, actor, time_s), scene.sun):
            flat = np.concatenate([outlines, np.zeros_like(outlines[..., :1])], axis=-1)
            points, depth = camera.project(flat)
            for polygon in to_fixed_point(points[depth.min(-1) > MIN_DEPTH_M]):
                cv2.fillConvexPoly(
                    mask, polygon, 255 * (1 - strength * scene.shadow), cv2.LINE_AA, FIXED_POINT_BITS
                )
    image[:] = cv2.multiply(image, cv2.merge([mask] * 3), scale=1 / 255)


def visible_scenery(scene: Scene, camera: SceneCamera) -> list[tuple[float, Mesh]]:
    """Return distance and mesh of each visible object, in all copies of the world around the camera."""
    if not len(scene.scenery_positions):
        return []
    world_m = scene.ground.world_m
    copies = range(-1, 2) if camera.pitch < 0.75 else range(1)
    objects = []
    nearest_shift = nearest_copy(scene.ground.world_m, camera, scene.scenery_positions)
    for i in copies:
        for j in copies:
            shift = nearest_shift + world_m * np.array([i, j])
            centres = np.column_stack([scene.scenery_positions + shift, scene.scenery_sizes[:, 1] / 2])
            pixels, depth = camera.project(centres)
            radius = camera.focal * scene.scenery_sizes.max(1) / np.maximum(depth, MIN_DEPTH_M)
            in_image = np.all(
                (pixels > -radius[:, None]) & (pixels < 2 * np.array(camera.centre) + radius[:, None]),
                axis=1,
            )
            visible = np.flatnonzero(in_image & (depth > MIN_DEPTH_M) & (radius > 1.0))
            objects += [(float(depth[k]), scene.scenery[k].translated(*shift[k])) for k in visible]
    return objects


def draw_objects(image: Image, scene: Scene, camera: SceneCamera, time_s: float) -> None:
    """Draw scenery and actors, the farthest first."""
    objects = visible_scenery(scene, camera)
    for actor in (*scene.actors, *scene.bystanders):
        mesh = placed_mesh(scene, camera, actor, time_s)
        depth = float(camera.project(mesh.bounds().mean(0))[1])
        if depth > MIN_DEPTH_M:
            objects.append((depth, mesh))
    if not objects:
        return
    objects.sort(key=lambda distance_and_mesh: -distance_and_mesh[0])
    order = np.arange(len(objects))
    painted = project_polygons(
        camera,
        join_meshes([mesh for _, mesh in objects]),
        np.repeat(order, [len(m.faces) for _, m in objects]),
        np.repeat(order, [len(m.rods) for _, m in objects]),
        scene.sun,
        scene.ambient,
    )
    transmission = np.exp(-np.array([depth for depth, _ in objects]) / scene.haze_m)[painted.owner][:, None]
    colours = np.clip(painted.colours * transmission + scene.sky[1] * (1 - transmission), 0, 255).tolist()
    for i in np.argsort(painted.owner, kind="stable"):
        cv2.fillConvexPoly(image, painted.polygons[i], colours[i], cv2.LINE_AA, FIXED_POINT_BITS)
