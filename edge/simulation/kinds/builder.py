"""Scenes of a kind: a place with its distractors, under a condition of light and sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge.simulation.actor_placement import choose, sample_actors, sample_twins
from edge.simulation.actors import CRUISE_SPEEDS_M_S, LENGTHS_M, Actor
from edge.simulation.camera import Array, CameraFlight, SineNoise
from edge.simulation.kinds.bystanders import sample_crowd, sample_flock, sample_herd
from edge.simulation.kinds.catalogue import BLANKS, PLACES, Setting, sample_setting
from edge.simulation.kinds.conditions import apply_condition, sample_kind_light
from edge.simulation.kinds.marks import (
    Quay,
    as_image,
    paint_houses,
    paint_quays,
    paint_road_marks,
    paint_tracks,
    sample_quays,
)
from edge.simulation.kinds.placement import Prop, place_props, sample_wires
from edge.simulation.kinds.water_layers import sample_water_layers
from edge.simulation.layers.wires import Wires
from edge.simulation.materials import HARD_MATERIALS, SOFT_MATERIALS, WATER_MATERIALS, Image, Rng, blend
from edge.simulation.mesh import Mesh, join_meshes, project_shadows
from edge.simulation.scene_builder import (
    Light,
    Scene,
    SceneLayout,
    place_scenery,
    sample_flight,
    sample_roads,
    sample_twin_focus,
)
from edge.simulation.terrain import Canvas, Ground, GroundPlan, Shore, build_ground, sample_shore
from edge.simulation.trajectories import TowedTrajectory, Trajectory, WanderTrajectory

PARTS = ("setting", "layout", "ground", "actors", "scenery", "flight", "light", "props", "bystanders", "look")
"""Parts of a scene with a random generator each, so that a change to one leaves the others as they are."""
FIRST_PART = 200
"""Generators of the parts are numbered from here; the plain scenes use smaller numbers."""
MIN_HEIGHT_M, MAX_HEIGHT_M = 5.0, 150.0
USUAL_FOCAL = 0.85
"""Median focal length in image widths, as `sample_flight` samples it."""
BLANK_PITCHES = {"sky": 0.1, "noise": 1.45}
"""Pitch in radians where the camera must not see the horizon."""
LOOKALIKES = frozenset({"parked", "parasol", "buoy", "debris", "container"})
"""Scenery that scenes without targets leave out, as a viewer might take it for one."""
MIN_TOWN_VIEW_M = 90.0
"""Views narrower than this show houses as objects only, since painted ones look flat from near."""
MAX_ACTOR_TRIES = 8
"""Attempts to find actors of which one moves, where bystanders look like actors."""


@dataclass(frozen=True)
class Distractors:
    """What a place adds to its scenery, and attracts no gaze.

    Attributes:
        props: Objects.
        bystanders: Figures.
        quays: Piers on the water.
        wires: Wires between pylons.
    """

    props: tuple[Prop, ...]
    bystanders: tuple[Actor, ...]
    quays: tuple[Quay, ...]
    wires: Wires | None


@dataclass(frozen=True)
class Draft:
    """The sampled parts of a scene, from which it is assembled."""

    setting: Setting
    layout: SceneLayout
    shore: Shore | None
    actors: tuple[Actor, ...]
    flight: CameraFlight
    distractors: Distractors
    light: Light


def build_kind_scene(seed: int, texture_size: int, kind: str, twins: bool, empty: bool) -> Scene:
    """Build a scene of a kind.

    Args:
        seed: From 0.
        texture_size: Side of the ground's texture in pixels.
        kind: One of `KINDS`.
        twins: The actors look the same and one of them moves. Such scenes are on land.
        empty: The scene has no targets, and nothing that looks like one.
    """
    rngs = {name: np.random.default_rng([seed, FIRST_PART + number]) for number, name in enumerate(PARTS)}
    setting = sample_setting(rngs["setting"], kind, twins, empty)
    layout = sample_layout(rngs["layout"], setting, twins)
    shore = sample_shore(rngs["ground"], layout.world_m) if layout.site == "coast" else None
    actors = sample_scene_actors(rngs["actors"], layout, setting, twins)
    flight = sample_kind_flight(rngs["flight"], layout, actors, twins)
    if setting.place == "sky":
        flight = replace(flight, look_up=float(rngs["flight"].uniform(0.8, 1.3)))
    if setting.is_empty:
        actors = ()
    draft = Draft(
        setting=setting,
        layout=layout,
        shore=shore,
        actors=actors,
        flight=flight,
        distractors=sample_distractors(rngs, layout, setting, flight.distance_m * math.sin(layout.pitch)),
        light=sample_kind_light(rngs["light"], layout, setting.condition),
    )
    scene = assemble(rngs, draft, texture_size)
    return apply_condition(rngs["look"], scene, setting, layout, twins)


def sample_layout(rng: Rng, setting: Setting, twins: bool) -> SceneLayout:
    """Sample site, scale and roads."""
    place = PLACES.get(setting.place, PLACES["plain"])
    site = choose(rng, place.sites) if setting.place not in BLANKS else "meadow"
    mains = tuple(name for name in place.mains if not (twins and name == "tower"))
    main_kind = choose(rng, mains)
    is_thermal = setting.condition == "thermal"
    usual = 0.02 if setting.place == "town" else 0.03 if is_thermal else 0.045
    fraction = math.exp(rng.normal(math.log(usual), 0.65))
    fraction = min(max(fraction, 0.008), 0.2 if main_kind not in ("tower", "bus") else 0.12)
    pitch = BLANK_PITCHES.get(setting.place) or sample_pitch(
        rng, 0.5 * place.horizon if is_thermal else place.horizon
    )
    to_view = 1 / (USUAL_FOCAL * math.sin(pitch))
    view_m = min(
        max(max(LENGTHS_M[main_kind], 1.7) / fraction, MIN_HEIGHT_M * to_view), MAX_HEIGHT_M * to_view
    )
    world_m = max(3.6 * view_m, 24.0)
    roads = sample_roads(rng, site, world_m) if setting.place not in BLANKS else ()
    if place.on_water and site == "sea":
        materials: tuple[str, ...] = (
            *WATER_MATERIALS,
            "dark water",
            "teal water",
            "teal water",
            "blue water",
        )
    else:
        materials = HARD_MATERIALS if site in ("plaza", "carpark", "court") else SOFT_MATERIALS
    return SceneLayout(site, main_kind, choose(rng, materials), pitch, view_m, world_m, roads)


def sample_pitch(rng: Rng, horizon: float) -> float:
    """Sample a pitch in radians: straight down, oblique, or with the horizon in view."""
    style = rng.random()
    if style < horizon:
        return float(rng.uniform(0.06, 0.26))
    if style < horizon + 0.25 * (1 - horizon):
        return float(rng.uniform(1.25, 1.53))
    return float(rng.triangular(0.22, 0.55, 1.3))


def sample_scene_actors(rng: Rng, layout: SceneLayout, setting: Setting, twins: bool) -> tuple[Actor, ...]:
    """Sample the possible targets. Where bystanders look like them, at least one moves."""
    roads, world_m, view_m = layout.roads, layout.world_m, layout.view_m
    if twins:
        return sample_twins(rng, layout.main_kind, roads, world_m, view_m)
    actors: tuple[Actor, ...] = ()
    for _ in range(MAX_ACTOR_TRIES):
        actors = sample_actors(rng, layout.site, layout.main_kind, roads, world_m, view_m)
        if PLACES.get(setting.place, PLACES["plain"]).on_water:
            actors = straighten(rng, actors, view_m)
        movers = tuple(actor for actor in actors if actor.is_moving)
        if setting.place in ("crowd", "surf", "wildlife", "harbour"):
            # A standing target among standing bystanders would be a riddle.
            actors = movers
        if actors:
            break
    return actors


def straighten(rng: Rng, actors: tuple[Actor, ...], view_m: float) -> tuple[Actor, ...]:
    """Return the actors with boats that hold their course, in wide bends."""
    courses: dict[int, WanderTrajectory] = {}
    for actor in actors:
        old = actor.trajectory
        if actor.appearance.kind == "boat" and isinstance(old, WanderTrajectory):
            speed, angle = CRUISE_SPEEDS_M_S["boat"] * rng.uniform(0.5, 1.6), rng.uniform(0, 2 * math.pi)
            reach_m, period_s = rng.uniform(0, 0.5) * view_m, 3 * view_m / speed
            velocity = (speed * math.sin(angle), speed * math.cos(angle))
            bends = SineNoise.sample(rng, reach_m, period_s), SineNoise.sample(rng, reach_m, period_s)
            courses[id(old)] = WanderTrajectory(old.x, old.y, velocity, bends)

    def course(old: Trajectory) -> Trajectory:
        """Return the new course, also of what is towed."""
        if isinstance(old, TowedTrajectory):
            return replace(old, leader=course(old.leader))
        return courses.get(id(old), old)

    return tuple(replace(actor, trajectory=course(actor.trajectory)) for actor in actors)


def sample_kind_flight(rng: Rng, layout: SceneLayout, actors: tuple[Actor, ...], twins: bool) -> CameraFlight:
    """Sample the flight; the camera may look at the horizon, and keeps its height."""
    flight = sample_flight(rng, actors, layout.world_m, layout.view_m, layout.pitch)
    if twins:
        flight = replace(flight, focus=sample_twin_focus(rng, actors))
    height_m = flight.distance_m * math.sin(layout.pitch)
    kept_m = min(max(height_m, MIN_HEIGHT_M), MAX_HEIGHT_M)
    return replace(flight, distance_m=flight.distance_m * kept_m / height_m, min_pitch=0.05)


def sample_distractors(
    rngs: dict[str, Rng], layout: SceneLayout, setting: Setting, height_m: float
) -> Distractors:
    """Sample what the place adds to its scenery."""
    rng, figures = rngs["props"], rngs["bystanders"]
    centre, view_m = np.full(2, layout.world_m / 2), layout.view_m
    quays: tuple[Quay, ...] = ()
    if setting.place == "harbour" or (setting.place == "wake" and rng.random() < 0.1):
        quays = sample_quays(rng, layout)
    wires = None
    props: tuple[Prop, ...] = ()
    if setting.place not in BLANKS:
        has_wires = setting.place == "powerline" or (layout.site != "sea" and rng.random() < 0.08)
        pylons, wires = sample_wires(rng, layout, height_m) if has_wires else ((), None)
        props = pylons + place_props(rng, layout, setting, quays)
    return Distractors(props, sample_figures(figures, centre, view_m, setting), quays, wires)


def sample_figures(rng: Rng, centre: Array, view_m: float, setting: Setting) -> tuple[Actor, ...]:
    """Sample crowds, herds and flocks."""
    if setting.is_empty:
        return ()
    figures: tuple[Actor, ...] = ()
    place = setting.place
    if place == "crowd":
        figures += sample_crowd(rng, "person", centre, 0.22 * view_m, int(rng.integers(12, 40)))
    elif place == "surf":
        figures += sample_crowd(rng, "swimmer", centre, 0.3 * view_m, int(rng.integers(6, 30)))
    elif place == "wildlife":
        figures += sample_herd(rng, centre, view_m)
    if rng.random() < (0.6 if place == "wildlife" else 0.12):
        figures += sample_flock(rng, centre, view_m)
    return figures


def assemble(rngs: dict[str, Rng], draft: Draft, texture_size: int) -> Scene:
    """Return the scene by day, before its condition."""
    layout, light, distractors = draft.layout, draft.light, draft.distractors
    height_m = draft.flight.distance_m * math.sin(layout.pitch)
    meshes: tuple[Mesh, ...] = ()
    positions, sizes = np.zeros((0, 2)), np.zeros((0, 2))
    open_sea = layout.site == "sea" and rngs["scenery"].random() < 0.6
    if draft.setting.place not in BLANKS and not open_sea:
        excluded = LOOKALIKES if draft.setting.is_empty else frozenset[str]()
        if layout.site == "sea":
            # Scattered piers would float on open water; a harbour has quays instead.
            excluded |= {"jetty"}
        meshes, positions, sizes = place_scenery(rngs["scenery"], layout, draft.shore, height_m, excluded)
    props = distractors.props
    scenery = (*meshes, *(prop.mesh for prop in props))
    ground = paint_kind_ground(rngs["ground"], draft, texture_size, scenery)
    return Scene(
        ground=ground,
        scenery=scenery,
        scenery_positions=np.concatenate([positions, np.array([p.position for p in props]).reshape(-1, 2)]),
        scenery_sizes=np.concatenate([sizes, np.array([p.size for p in props]).reshape(-1, 2)]),
        scenery_bounds=np.array([mesh.bounds() for mesh in scenery]).reshape(-1, 2, 3),
        actors=draft.actors,
        flight=draft.flight,
        sun=light.sun,
        ambient=float(1 - 0.75 * light.shadow),
        shadow=light.shadow,
        crests=(),
        glare=light.glare,
        sky=light.sky,
        haze_m=light.haze_m,
        hills=light.hills,
        effects=light.effects,
        bystanders=distractors.bystanders,
        ground_layers=sample_water_layers(rngs["look"], layout, draft.setting, ground, light.sun),
        near_layers=() if distractors.wires is None else (distractors.wires,),
        draws_wakes=False,
    )


def calm_water(rng: Rng, image: Image, water: Image) -> Image:
    """Return the texture with less mottled water: the structure of water is that of its waves."""
    mean = np.array(cv2.mean(image, water)[:3])
    kept = rng.uniform(0.1, 0.6)
    flat = cv2.addWeighted(
        image, kept, np.broadcast_to(mean.astype(np.uint8), image.shape).copy(), 1 - kept, 0
    )
    return blend(image, np.asarray(flat, np.uint8), water)


def paint_kind_ground(rng: Rng, draft: Draft, texture_size: int, scenery: tuple[Mesh, ...]) -> Ground:
    """Paint the ground with what the place adds to it."""
    layout, setting, light = draft.layout, draft.setting, draft.light

    def finish(image: Image, water: Image | None) -> tuple[Image, Image | None]:
        """Paint the additions on texture and water mask."""
        canvas = Canvas(image, layout.world_m)
        if water is not None:
            image = calm_water(rng, image, water)
            canvas = Canvas(image, layout.world_m)
        if setting.place == "noise":
            image[:] = np.array([1.0, 1.0, 1.0]) * rng.uniform(20, 230)
        elif setting.place == "town" and layout.view_m > MIN_TOWN_VIEW_M:
            paint_houses(rng, canvas, layout.roads, rng.uniform(9, 16))
        elif setting.place == "roadworks" or (layout.roads and rng.random() < 0.3):
            paint_road_marks(rng, canvas, layout.roads)
        if setting.place not in BLANKS and layout.site in ("meadow", "fields") and rng.random() < 0.3:
            paint_tracks(rng, canvas, layout.base_material)
        if water is not None and draft.distractors.quays:
            mask = Canvas(as_image(water), layout.world_m)
            paint_quays(rng, canvas, mask, draft.distractors.quays)
            water = np.ascontiguousarray(mask.image[..., 0])
        return image, water

    plan = GroundPlan(
        site="plaza" if setting.place == "noise" else layout.site,
        base_material=layout.base_material,
        world_m=layout.world_m,
        roads=layout.roads,
        shore=draft.shore,
        texture_size=texture_size,
        wave_tile_m=layout.view_m * rng.uniform(0.2, 1.4),
    )
    casts_shadows = light.shadow and scenery and (layout.site != "sea" or setting.place == "harbour")
    shadows = project_shadows(join_meshes(scenery), light.sun) if casts_shadows else ()
    ground = build_ground(rng, plan, shadows, light.shadow, finish)
    # Water is often calmer than in plain scenes.
    calm = rng.uniform(0.25, 1.1)
    waves = cv2.convertScaleAbs(ground.waves, alpha=calm, beta=128 * (1 - calm))
    return replace(ground, waves=np.asarray(waves, np.uint8))
