"""Random scenes: a site with its ground, scenery, actors, light and camera flight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge.simulation.actor_placement import ACTOR_KINDS, choose, sample_actors, sample_twins
from edge.simulation.actors import LENGTHS_M, Actor
from edge.simulation.camera import Array, CameraFlight, SineNoise
from edge.simulation.camera_effects import CameraEffects, sample_effects
from edge.simulation.layers.layer import Layer
from edge.simulation.materials import HARD_MATERIALS, SOFT_MATERIALS, WATER_MATERIALS, Rng
from edge.simulation.mesh import Mesh, join_meshes, project_shadows
from edge.simulation.scenery import SCENERY_BUILDERS
from edge.simulation.terrain import CITY_BLOCKS, Ground, GroundPlan, Shore, build_ground, sample_shore
from edge.simulation.trajectories import Road

SITE_WEIGHTS = {
    "street": 0.24,
    "highway": 0.08,
    "meadow": 0.15,
    "plaza": 0.13,
    "carpark": 0.07,
    "court": 0.05,
    "city": 0.05,
    "fields": 0.05,
    "sea": 0.12,
    "coast": 0.08,
}
SCENERY_KINDS: dict[str, tuple[str, ...]] = {
    "street": (
        "tree",
        "palm",
        "pole",
        "house",
        "bush",
        "parked",
        "wall",
        "debris",
        "rock",
        "canopy",
        "conifer",
    ),
    "highway": ("pole", "tree", "rock", "house", "bush", "wall", "palm"),
    "meadow": ("tree", "bush", "rock", "conifer", "debris", "wall", "pole", "house"),
    "plaza": ("tree", "bush", "canopy", "pole", "wall", "container", "house", "palm", "debris"),
    "carpark": ("parked", "pole", "tree", "canopy", "house", "container"),
    "court": ("pole", "container", "tree", "wall", "house", "bush"),
    "city": ("house", "house", "tree", "pole", "container", "parked"),
    "fields": ("tree", "house", "conifer", "bush", "pole", "rock"),
    "sea": ("buoy", "rock", "jetty"),
    "coast": ("rock", "house", "tree", "jetty", "parasol", "palm"),
}


@dataclass(frozen=True)
class Crest:
    """A breaking wave: a band of foam that moves slowly.

    Attributes:
        start: (2,), one end in metres.
        along: (2,), vector to the other end in metres.
        velocity: (2,), metres per second.
        thickness_m: Width of the band.
    """

    start: Array
    along: Array
    velocity: Array
    thickness_m: float


@dataclass(frozen=True)
class Scene:
    """One place with everything in it, in metres and seconds.

    Attributes:
        ground: Texture of the ground.
        scenery: Meshes of the static objects, in place.
        scenery_positions: (N, 2), their positions.
        scenery_sizes: (N, 2), their radii and heights.
        scenery_bounds: (N, 2, 3), their lowest and highest corners.
        actors: The possible targets.
        flight: Motion of the camera.
        sun: (3,), direction towards the light.
        ambient: Brightness in shadow, 0 to 1.
        shadow: Strength of the shadows, 0 to 1.
        crests: Breaking waves.
        glare: Strength of the sun's reflection on water; 0 is none.
        sky: (2, 3), BGR of the zenith and of the horizon.
        haze_m: Distance at which haze reduces the contrast to 1/e.
        hills: (n,), heights of the skyline in image widths, around the horizon.
        effects: Effects of the camera.
        bystanders: Figures that may move but attract no gaze, such as birds and a crowd.
        ground_layers: Drawn on the ground before the haze.
        far_layers: Drawn at the horizon and in the sky, behind all objects.
        near_layers: Drawn in front of all objects.
        draws_wakes: Moving boats and surfers leave puffs of foam; otherwise a layer draws the wakes.
    """

    ground: Ground
    scenery: tuple[Mesh, ...]
    scenery_positions: Array
    scenery_sizes: Array
    scenery_bounds: Array
    actors: tuple[Actor, ...]
    flight: CameraFlight
    sun: Array
    ambient: float
    shadow: float
    crests: tuple[Crest, ...]
    glare: float
    sky: Array
    haze_m: float
    hills: Array
    effects: CameraEffects
    bystanders: tuple[Actor, ...] = ()
    ground_layers: tuple[Layer, ...] = ()
    far_layers: tuple[Layer, ...] = ()
    near_layers: tuple[Layer, ...] = ()
    draws_wakes: bool = True


@dataclass(frozen=True)
class SceneLayout:
    """Site, scale and roads of a scene."""

    site: str
    main_kind: str
    base_material: str
    pitch: float
    view_m: float
    world_m: float
    roads: tuple[Road, ...]


@dataclass(frozen=True)
class Light:
    """Sun, sky and camera effects of a scene, as in `Scene`."""

    sun: Array
    shadow: float
    sky: Array
    haze_m: float
    glare: float
    hills: Array
    effects: CameraEffects


def build_scene(seed: int, texture_size: int, twins: bool = False) -> Scene:
    """Build the scene of a seed.

    Each part has a random generator of its own, so that a change to one part leaves the others as they are.

    Args:
        seed: From 0.
        texture_size: Side of the ground's texture in pixels.
        twins: The actors look the same and one of them moves. Such scenes are on land, since a moving actor
            on water has a wake.
    """
    layout_rng, ground_rng, actor_rng, scenery_rng, flight_rng, light_rng = (
        np.random.default_rng([seed, part]) for part in range(6)
    )
    layout = _sample_layout(layout_rng, twins)
    shore = sample_shore(ground_rng, layout.world_m) if layout.site == "coast" else None
    actors, flight = _sample_actors_and_flight(actor_rng, flight_rng, layout, twins)
    height_m = flight.distance_m * math.sin(layout.pitch)
    scenery, positions, sizes = place_scenery(scenery_rng, layout, shore, height_m)
    light = sample_light(light_rng, layout)
    casts_shadows = bool(light.shadow and scenery and layout.site != "sea")
    plan = GroundPlan(
        site=layout.site,
        base_material=layout.base_material,
        world_m=layout.world_m,
        roads=layout.roads,
        shore=shore,
        texture_size=texture_size,
        wave_tile_m=layout.view_m * ground_rng.uniform(0.5, 2.5),
    )
    shadows = project_shadows(join_meshes(scenery), light.sun) if casts_shadows else ()
    return Scene(
        ground=build_ground(ground_rng, plan, shadows, light.shadow),
        scenery=scenery,
        scenery_positions=positions,
        scenery_sizes=sizes,
        scenery_bounds=np.array([mesh.bounds() for mesh in scenery]).reshape(-1, 2, 3),
        actors=actors,
        flight=flight,
        sun=light.sun,
        ambient=float(1 - 0.75 * light.shadow),
        shadow=light.shadow,
        crests=sample_crests(layout_rng, layout.site, layout.world_m, layout.view_m),
        glare=light.glare,
        sky=light.sky,
        haze_m=light.haze_m,
        hills=light.hills,
        effects=light.effects,
    )


def _sample_layout(rng: Rng, twins: bool) -> SceneLayout:
    weights = np.array(list(SITE_WEIGHTS.values()))
    site = str(rng.choice(list(SITE_WEIGHTS), p=weights / sum(SITE_WEIGHTS.values())))
    if twins and site in ("sea", "coast"):
        site = "meadow"
    main_kind = choose(rng, tuple(kind for kind in ACTOR_KINDS[site] if not (twins and kind == "tower")))
    # The scale follows from the fraction of the view that the main actor fills.
    fraction = math.exp(rng.normal(math.log(0.055), 0.6))
    fraction = min(max(fraction, 0.008), 0.24 if main_kind not in ("tower", "bus") else 0.12)
    pitch = float(rng.triangular(0.16, 0.55, 1.5))
    view_m = LENGTHS_M[main_kind] / fraction
    world_m = max(3.6 * view_m, 24.0)
    roads = sample_roads(rng, site, world_m)
    if site == "sea":
        materials = WATER_MATERIALS
    else:
        materials = HARD_MATERIALS if site in ("plaza", "carpark", "court") else SOFT_MATERIALS
    return SceneLayout(site, main_kind, choose(rng, materials), pitch, view_m, world_m, roads)


def _sample_actors_and_flight(
    actor_rng: Rng, flight_rng: Rng, layout: SceneLayout, twins: bool
) -> tuple[tuple[Actor, ...], CameraFlight]:
    main_kind, roads, world_m, view_m = layout.main_kind, layout.roads, layout.world_m, layout.view_m
    if twins:
        actors = sample_twins(actor_rng, main_kind, roads, world_m, view_m)
    else:
        actors = sample_actors(actor_rng, layout.site, main_kind, roads, world_m, view_m)
    flight = sample_flight(flight_rng, actors, world_m, view_m, layout.pitch)
    if twins:
        flight = replace(flight, focus=sample_twin_focus(flight_rng, actors))
    return actors, flight


def sample_light(rng: Rng, layout: SceneLayout) -> Light:
    """Sample sun, sky and camera effects of an ordinary day."""
    azimuth, elevation = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.3)
    sun = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        ]
    )
    shadow = float(rng.choice([0.0, rng.uniform(0.15, 0.35), rng.uniform(0.35, 0.7)], p=[0.2, 0.3, 0.5]))
    grey = rng.uniform(120, 235)
    zenith = np.array([grey * rng.uniform(1.0, 1.25), grey, grey * rng.uniform(0.65, 1.0)])
    horizon = np.minimum(zenith * rng.uniform(0.9, 1.25) + rng.uniform(0, 25), 250)
    haze_views = math.exp(rng.uniform(math.log(4), math.log(80)))
    return Light(
        sun=sun,
        shadow=shadow,
        sky=np.stack([np.minimum(zenith, 250), horizon]),
        haze_m=layout.view_m * haze_views,
        glare=float(rng.uniform(0.3, 1.0)) if layout.site in ("sea", "coast") and rng.random() < 0.5 else 0.0,
        hills=0.05 * rng.uniform(0, 1) ** 2 * rng.uniform(0.2, 1, 90),
        effects=sample_effects(rng),
    )


def sample_roads(rng: Rng, site: str, world_m: float) -> tuple[Road, ...]:
    """Sample the roads of a site; the first crosses the centre of the world."""
    chance = {
        "street": 1.0,
        "highway": 1.0,
        "city": 0.6,
        "carpark": 0.6,
        "meadow": 0.3,
        "fields": 0.8,
        "court": 0.2,
        "plaza": 0.1,
    }.get(site, 0.0)
    roads: list[Road] = []
    if rng.random() < chance:
        count = 1 + int(rng.integers(0, 3)) if site not in ("meadow", "court", "plaza") else 1
        wide = rng.uniform(10, 26) if site == "highway" else rng.uniform(5, 12)
        along = bool(rng.random() < 0.5)
        for k in range(count):
            crossing = k > 0 and site != "highway" and rng.random() < 0.6
            straight = site == "city" or rng.random() < 0.4
            bend = 0.0 if straight else world_m * rng.uniform(0.01, 0.05)
            apart = 1 / CITY_BLOCKS if site == "city" else 0.31
            roads.append(
                Road(
                    along != crossing,
                    world_m * (0.5 + apart * k),
                    bend,
                    int(rng.integers(1, 3)),
                    rng.uniform(0, 6.28),
                    world_m,
                    wide,
                )
            )
    return tuple(roads)


def sample_flight(
    rng: Rng, actors: tuple[Actor, ...], world_m: float, view_m: float, pitch: float
) -> CameraFlight:
    """Sample a flight that follows an actor, hovers over a place or moves straight on."""
    focal = math.exp(rng.normal(math.log(0.85), 0.25))
    movers = [a for a in actors if a.is_moving]
    style = rng.random()
    if movers and style < 0.62:
        leader = movers[0].trajectory
        lag_s = float(rng.uniform(0.2, 1.2))

        def focus(time_s: float) -> Array:
            """Return the mean of the leader's recent positions."""
            positions = [leader.pose_at(time_s - lag_s * k)[:2] for k in (0.0, 0.5, 1.0)]
            return np.asarray(np.mean(positions, axis=0), np.float64)
    else:
        start = np.array([world_m / 2, world_m / 2])
        if style < 0.92:
            start = np.array(actors[int(rng.integers(len(actors)))].trajectory.pose_at(0.0)[:2])
        velocity = rng.normal(0, 0.12, 2) * view_m * (rng.random() < 0.35)

        def focus(time_s: float) -> Array:
            """Return a fixed point, or a point that moves straight on."""
            return np.asarray(start + velocity * time_s)

    unrest = math.exp(rng.normal(0, 0.7))
    shake = 0.0015 * unrest if rng.random() < 0.7 else 0.005
    return CameraFlight(
        focus=focus,
        distance_m=view_m * focal,
        pitch=pitch,
        yaw=float(rng.uniform(0, 2 * math.pi)),
        yaw_rate=float(rng.normal(0, 0.12)) * (rng.random() < 0.35),
        focal=focal,
        wander=(SineNoise.sample(rng, 0.3 * rng.random() + 0.05, 12), SineNoise.sample(rng, 0.15, 14)),
        yaw_noise=SineNoise.sample(rng, 0.12 * unrest, 9),
        pitch_noise=SineNoise.sample(rng, 0.04 * unrest, 11),
        roll_noise=SineNoise.sample(rng, 0.05 * unrest, 8),
        zoom_noise=SineNoise.sample(rng, 0.35 * rng.random(), 15),
        shake=(SineNoise.sample(rng, shake, 0.5), SineNoise.sample(rng, shake, 0.4)),
    )


def sample_twin_focus(rng: Rng, actors: tuple[Actor, ...]) -> Callable[[float], Array]:
    """Return a focus between all actors, which in half of the scenes moves like one of them.

    The followed actor may be a static one, so that the camera's motion does not reveal the moving one.
    """
    followed = actors[int(rng.integers(len(actors)))].trajectory if rng.random() < 0.5 else None
    centre = np.mean([actor.trajectory.pose_at(0.0)[:2] for actor in actors], axis=0)

    def focus(time_s: float) -> Array:
        """Return the centre, moved by the way that the followed actor has gone."""
        moved = np.subtract(followed.pose_at(time_s)[:2], followed.pose_at(0.0)[:2]) if followed else 0.0
        return np.asarray(centre + moved, np.float64)

    return focus


def place_scenery(
    rng: Rng,
    layout: SceneLayout,
    shore: Shore | None,
    height_m: float,
    excluded: frozenset[str] = frozenset(),
) -> tuple[tuple[Mesh, ...], Array, Array]:
    """Place static objects in the world.

    Args:
        rng: Random numbers.
        layout: Site, scale and roads.
        shore: Shore of a coast.
        height_m: Height of the camera, which limits the height of objects.
        excluded: Kinds of objects to leave out.

    Returns:
        Meshes in place, their positions (N, 2), and their radii and heights (N, 2).
    """
    names = tuple(name for name in SCENERY_KINDS[layout.site] if name not in excluded)
    count = int(rng.choice([0, 8, 25, 50, 90], p=[0.1, 0.2, 0.3, 0.25, 0.15]))
    kinds = tuple(choose(rng, names) for _ in range(int(rng.integers(1, 5))))
    meshes: list[Mesh] = []
    positions: list[tuple[float, float]] = []
    radii: list[float] = []
    along_roads = rng.random() < 0.5
    for _ in range(count):
        kind = choose(rng, kinds)
        mesh = SCENERY_BUILDERS[kind](rng)
        low, high = mesh.bounds()
        if high[2] > 0.55 * height_m:
            continue
        radius = float(np.hypot(*np.maximum(-low[:2], high[:2])))
        x, y, heading = _sample_scenery_pose(rng, layout, kind, radius, along_roads)
        if any(is_on_road(road, x, y, radius) for road in layout.roads) and kind != "debris":
            continue
        if shore is not None and kind not in ("rock", "jetty") and shore.is_water(x, y):
            continue
        gaps = np.hypot(*(np.array(positions).reshape(-1, 2) - [x, y]).T) - np.array(radii)
        if radius > 0.3 * layout.view_m or (len(gaps) and gaps.min() < 0.8 * radius):
            continue
        radii.append(radius)
        meshes.append(mesh.placed(float(x), float(y), heading))
        positions.append((float(x), float(y)))
    sizes = [(float(np.ptp(m.bounds()[:, :2], axis=0).max() / 2), m.bounds()[1, 2]) for m in meshes]
    return tuple(meshes), np.array(positions).reshape(-1, 2), np.array(sizes).reshape(-1, 2)


def _sample_scenery_pose(
    rng: Rng, layout: SceneLayout, kind: str, radius: float, along_roads: bool
) -> tuple[float, float, float]:
    """Return x and y in metres and the heading in radians of an object."""
    site, roads, world_m = layout.site, layout.roads, layout.world_m
    heading = (
        float(rng.choice([0, math.pi / 2]) + rng.normal(0, 0.05))
        if roads or site == "city" or kind == "parked"
        else float(rng.uniform(0, 2 * math.pi))
    )
    if roads and along_roads:
        road = roads[int(rng.integers(len(roads)))]
        side = 1 if rng.random() < 0.5 else -1
        aside_m = side * (road.width_m / 2 + radius + rng.uniform(0.3, 2))
        along_m = round(float(rng.uniform(0, 1)) * 20) / 20 * world_m
        x, y = (float(coordinate) for coordinate in road.point(along_m, aside_m))
    elif kind == "parked" and site == "carpark":
        x, y = (
            2.7 * (int(rng.uniform(0, world_m) / 2.7) + 0.5),
            18.0 * int(rng.uniform(0, world_m) / 18) + rng.choice([-2.6, 2.6]),
        )
        heading = float(rng.choice([0, math.pi]))
    elif site == "city":
        cell = world_m / (3 * CITY_BLOCKS)
        x, y = cell * (rng.integers(3 * CITY_BLOCKS, size=2) + rng.uniform(-0.2, 0.2, 2))
    else:
        is_near = rng.random() < 0.4
        x, y = rng.normal(world_m / 2, 0.5 * layout.view_m, 2) if is_near else rng.uniform(0, world_m, 2)
    return x, y, heading


def is_on_road(road: Road, x: float, y: float, radius: float) -> bool:
    """Return whether an object of a radius would stand on the road."""
    along_m, across_m = (x, y) if road.along_x else (y, x)
    centre_m = float(road.point(along_m, 0.0)[1 if road.along_x else 0])
    gap_m = (across_m - centre_m + road.world_m / 2) % road.world_m - road.world_m / 2
    return bool(abs(gap_m) < road.width_m / 2 + radius * 0.8)


def sample_crests(rng: Rng, site: str, world_m: float, view_m: float) -> tuple[Crest, ...]:
    """Sample breaking waves; many seas have none."""
    if site not in ("sea", "coast") or rng.random() < 0.55:
        return ()
    crests = []
    angle = rng.uniform(0, 2 * math.pi)
    direction = np.array([math.cos(angle), math.sin(angle)])
    for _ in range(int(rng.integers(1, 4))):
        start = world_m / 2 + rng.normal(0, 0.6, 2) * view_m
        along = np.array([-direction[1], direction[0]]) * view_m * rng.uniform(0.3, 1.2)
        crests.append(
            Crest(
                start,
                along,
                direction * view_m * rng.uniform(0.0, 0.03),
                view_m * rng.uniform(0.015, 0.08),
            )
        )
    return tuple(crests)


def without_actor(scene: Scene, target_id: int) -> Scene:
    """Return the scene without one actor."""
    return replace(scene, actors=tuple(a for a in scene.actors if a.target_id != target_id))
