"""What is there: one random place with its ground, scenery, actors, light and flight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge.simulation.actor_placement import ACTOR_KINDS, choose, sample_actors, sample_twins
from edge.simulation.actors import LENGTHS_M, Actor, Road
from edge.simulation.camera import Array, CameraFlight, SineNoise
from edge.simulation.camera_effects import CameraEffects, sample_effects
from edge.simulation.materials import HARD_MATERIALS, SOFT_MATERIALS, WATER_MATERIALS, Rng
from edge.simulation.mesh import Mesh, join_meshes, project_shadows
from edge.simulation.scenery import SCENERY_BUILDERS
from edge.simulation.terrain import CITY_BLOCKS, Ground, Shore, build_ground, sample_shore

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
    """A breaking wave: a band of foam that rolls slowly."""

    start: Array  # (2,) metres
    along: Array  # (2,) metres, from one end to the other
    roll: Array  # (2,) metres a second
    thickness_m: float


@dataclass(frozen=True)
class Scene:
    """One place. All lengths in metres, all times in seconds."""

    ground: Ground
    scenery: tuple[Mesh, ...]  # at their places
    scenery_positions: Array  # (N, 2) of the scenery
    scenery_sizes: Array  # (N, 2): radius and height of the scenery
    scenery_bounds: Array  # (N, 2, 3): lowest and highest corner of the scenery
    actors: tuple[Actor, ...]
    flight: CameraFlight
    sun: Array  # (3,) towards the light
    ambient: float
    shadow: float  # 0..1
    crests: tuple[Crest, ...]
    glare: float  # 0: none
    sky: Array  # (2, 3) BGR: zenith, horizon
    haze_m: float
    hills: Array  # (n,) heights of the skyline, in frame widths
    effects: CameraEffects


def build_scene(seed: int, texture_size: int, twins: bool = False) -> Scene:
    """The scene of a seed; `texture_size` is the fineness of its ground in pixels.

    With `twins` its actors look the same and one of them moves; such scenes are on land, for what moves
    on water has a wake.
    """
    layout, paint, cast, props, flight_rng, light = (np.random.default_rng([seed, part]) for part in range(6))
    site = str(
        layout.choice(
            list(SITE_WEIGHTS), p=np.array(list(SITE_WEIGHTS.values())) / sum(SITE_WEIGHTS.values())
        )
    )
    if twins and site in ("sea", "coast"):
        site = "meadow"
    main_kind = choose(layout, tuple(kind for kind in ACTOR_KINDS[site] if not (twins and kind == "tower")))
    fraction = math.exp(layout.normal(math.log(0.055), 0.6))
    fraction = min(max(fraction, 0.008), 0.24 if main_kind not in ("tower", "bus") else 0.12)
    pitch = float(layout.triangular(0.16, 0.55, 1.5))
    view_m = LENGTHS_M[main_kind] / fraction
    world_m = max(3.6 * view_m, 24.0)
    roads = sample_roads(layout, site, world_m)
    shore = sample_shore(paint, world_m) if site == "coast" else None
    base = choose(
        layout,
        WATER_MATERIALS
        if site == "sea"
        else HARD_MATERIALS
        if site in ("plaza", "carpark", "court")
        else SOFT_MATERIALS,
    )
    if twins:
        actors = sample_twins(cast, main_kind, roads, world_m, view_m)
        flight = replace(
            sample_flight(flight_rng, actors, world_m, view_m, pitch),
            focus=sample_twin_focus(flight_rng, actors),
        )
    else:
        actors = sample_actors(cast, site, main_kind, roads, world_m, view_m)
        flight = sample_flight(flight_rng, actors, world_m, view_m, pitch)
    height_m = flight.distance_m * math.sin(pitch)
    scenery, scenery_positions, scenery_sizes = place_scenery(
        props, site, roads, shore, world_m, view_m, height_m
    )
    azimuth, elevation = light.uniform(0, 2 * math.pi), light.uniform(0.35, 1.3)
    sun = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.cos(elevation) * math.cos(azimuth),
            math.sin(elevation),
        ]
    )
    shadow = float(
        light.choice([0.0, light.uniform(0.15, 0.35), light.uniform(0.35, 0.7)], p=[0.2, 0.3, 0.5])
    )
    shaded = bool(shadow and scenery and site != "sea")
    shades = project_shadows(join_meshes(scenery), sun) if shaded else ()
    ground = build_ground(
        paint,
        site,
        base,
        world_m,
        roads,
        shore,
        texture_size,
        (shades, shadow),
        view_m * paint.uniform(0.5, 2.5),
    )
    grey = light.uniform(120, 235)
    zenith = np.array([grey * light.uniform(1.0, 1.25), grey, grey * light.uniform(0.65, 1.0)])
    horizon = np.minimum(zenith * light.uniform(0.9, 1.25) + light.uniform(0, 25), 250)
    hazy = math.exp(light.uniform(math.log(4), math.log(80)))
    return Scene(
        ground,
        scenery,
        scenery_positions,
        scenery_sizes,
        np.array([mesh.bounds() for mesh in scenery]).reshape(-1, 2, 3),
        actors,
        flight,
        sun,
        float(1 - 0.75 * shadow),
        shadow,
        sample_crests(layout, site, world_m, view_m),
        float(light.uniform(0.3, 1.0)) if site in ("sea", "coast") and light.random() < 0.5 else 0.0,
        np.stack([np.minimum(zenith, 250), horizon]),
        view_m * hazy,
        0.05 * light.uniform(0, 1) ** 2 * light.uniform(0.2, 1, 90),
        sample_effects(light),
    )


def sample_roads(rng: Rng, site: str, world_m: float) -> tuple[Road, ...]:
    """The roads of a lot; the first goes through the middle of the world."""
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
    """Follow an actor, hover over a place or travel on."""
    focal = math.exp(rng.normal(math.log(0.85), 0.25))
    movers = [a for a in actors if a.is_moving]
    style = rng.random()
    if movers and style < 0.62:
        lead = movers[0].trajectory
        lag = float(rng.uniform(0.2, 1.2))

        def focus(time_s: float) -> Array:
            """Loosely where the lead is."""
            places = [lead.pose_at(time_s - lag * k)[:2] for k in (0.0, 0.5, 1.0)]
            return np.asarray(np.mean(places, axis=0), np.float64)
    else:
        start = np.array([world_m / 2, world_m / 2])
        if style < 0.92:
            start = np.array(actors[int(rng.integers(len(actors)))].trajectory.pose_at(0.0)[:2])
        travel = rng.normal(0, 0.12, 2) * view_m * (rng.random() < 0.35)

        def focus(time_s: float) -> Array:
            """Over one place, or on a straight course."""
            return np.asarray(start + travel * time_s)

    calm = math.exp(rng.normal(0, 0.7))
    shaky = 0.0015 * calm if rng.random() < 0.7 else 0.005
    return CameraFlight(
        focus,
        view_m * focal,
        pitch,
        float(rng.uniform(0, 2 * math.pi)),
        float(rng.normal(0, 0.12)) * (rng.random() < 0.35),
        focal,
        (SineNoise.sample(rng, 0.3 * rng.random() + 0.05, 12), SineNoise.sample(rng, 0.15, 14)),
        SineNoise.sample(rng, 0.12 * calm, 9),
        SineNoise.sample(rng, 0.04 * calm, 11),
        SineNoise.sample(rng, 0.05 * calm, 8),
        SineNoise.sample(rng, 0.35 * rng.random(), 15),
        (SineNoise.sample(rng, shaky, 0.5), SineNoise.sample(rng, shaky, 0.4)),
    )


def sample_twin_focus(rng: Rng, actors: tuple[Actor, ...]) -> Callable[[float], Array]:
    """Look between all actors; with even odds, follow one of them, whether it moves or not."""
    one = actors[int(rng.integers(len(actors)))].trajectory if rng.random() < 0.5 else None
    here = np.mean([actor.trajectory.pose_at(0.0)[:2] for actor in actors], axis=0)

    def focus(time_s: float) -> Array:
        """Where the one has gone, as seen from between all."""
        gone = np.subtract(one.pose_at(time_s)[:2], one.pose_at(0.0)[:2]) if one else 0.0
        return np.asarray(here + gone, np.float64)

    return focus


def place_scenery(
    rng: Rng,
    site: str,
    roads: tuple[Road, ...],
    shore: Shore | None,
    world_m: float,
    view_m: float,
    height_m: float,
) -> tuple[tuple[Mesh, ...], Array, Array]:
    """Scenery about the world: meshes in place, feet (N, 2), radius and height (N, 2)."""
    names = SCENERY_KINDS[site]
    count = int(rng.choice([0, 8, 25, 50, 90], p=[0.1, 0.2, 0.3, 0.25, 0.15]))
    kinds = [choose(rng, names) for _ in range(int(rng.integers(1, 5)))]
    meshes: list[Mesh] = []
    scenery_positions: list[tuple[float, float]] = []
    radii: list[float] = []
    middle = world_m / 2
    row = rng.random() < 0.5
    for _ in range(count):
        kind = choose(rng, tuple(kinds))
        mesh = SCENERY_BUILDERS[kind](rng)
        low, high = mesh.bounds()
        if high[2] > 0.55 * height_m:
            continue
        radius = float(np.hypot(*np.maximum(-low[:2], high[:2])))
        heading = (
            float(rng.choice([0, math.pi / 2]) + rng.normal(0, 0.05))
            if roads or site == "city" or kind == "parked"
            else float(rng.uniform(0, 2 * math.pi))
        )
        if roads and row:
            road = roads[int(rng.integers(len(roads)))]
            side = 1 if rng.random() < 0.5 else -1
            aside = side * (road.width_m / 2 + radius + rng.uniform(0.3, 2))
            s = round(float(rng.uniform(0, 1)) * 20) / 20 * world_m
            x, y = (float(v) for v in road.point(s, aside))
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
            near = rng.random() < 0.4
            x, y = rng.normal(middle, 0.5 * view_m, 2) if near else rng.uniform(0, world_m, 2)
        if any(is_on_road(road, x, y, radius) for road in roads) and kind != "debris":
            continue
        if shore is not None and kind not in ("rock", "jetty") and shore.is_water(x, y):
            continue
        gap = np.hypot(*(np.array(scenery_positions).reshape(-1, 2) - [x, y]).T) - np.array(radii)
        if radius > 0.3 * view_m or (len(gap) and gap.min() < 0.8 * radius):
            continue
        radii.append(radius)
        meshes.append(mesh.placed(float(x), float(y), heading))
        scenery_positions.append((float(x), float(y)))
    scenery_sizes = [(float(np.ptp(m.bounds()[:, :2], axis=0).max() / 2), m.bounds()[1, 2]) for m in meshes]
    return tuple(meshes), np.array(scenery_positions).reshape(-1, 2), np.array(scenery_sizes).reshape(-1, 2)


def is_on_road(road: Road, x: float, y: float, radius: float) -> bool:
    """Whether something of a radius would stand on the road."""
    s, across = (x, y) if road.along_x else (y, x)
    middle = float(road.point(s, 0.0)[1 if road.along_x else 0])
    gap = (across - middle + road.world_m / 2) % road.world_m - road.world_m / 2
    return bool(abs(gap) < road.width_m / 2 + radius * 0.8)


def sample_crests(rng: Rng, site: str, world_m: float, view_m: float) -> tuple[Crest, ...]:
    """Breaking waves on some seas."""
    if site not in ("sea", "coast") or rng.random() < 0.55:
        return ()
    crests = []
    angle = rng.uniform(0, 2 * math.pi)
    roll = np.array([math.cos(angle), math.sin(angle)])
    for _ in range(int(rng.integers(1, 4))):
        start = world_m / 2 + rng.normal(0, 0.6, 2) * view_m
        along = np.array([-roll[1], roll[0]]) * view_m * rng.uniform(0.3, 1.2)
        crests.append(
            Crest(
                start,
                along,
                roll * view_m * rng.uniform(0.0, 0.03),
                view_m * rng.uniform(0.015, 0.08),
            )
        )
    return tuple(crests)


def without_actor(scene: Scene, target_id: int) -> Scene:
    """The same scene less one actor."""
    return replace(scene, actors=tuple(a for a in scene.actors if a.target_id != target_id))
