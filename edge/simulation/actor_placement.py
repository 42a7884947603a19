"""Selection of the actors of a scene, and of their trajectories."""

from __future__ import annotations

import math

import numpy as np

from edge.simulation.actors import (
    CRUISE_SPEEDS_M_S,
    LENGTHS_M,
    VEHICLES,
    Actor,
    Appearance,
    sample_appearance,
    typical_gait_rate,
)
from edge.simulation.camera import Array, SineNoise
from edge.simulation.materials import Rng
from edge.simulation.trajectories import (
    Road,
    RoadTrajectory,
    StaticPose,
    TowedTrajectory,
    Trajectory,
    WanderTrajectory,
)

ACTOR_KINDS: dict[str, tuple[str, ...]] = {
    "street": ("car", "car", "person", "cyclist", "person", "van", "truck", "bus"),
    "highway": ("car", "car", "van", "truck", "bus"),
    "meadow": ("person", "person", "cyclist", "animal", "object", "car", "tower"),
    "plaza": ("person", "person", "person", "cyclist", "object", "animal"),
    "carpark": ("car", "car", "person", "van", "cyclist"),
    "court": ("person", "person", "car", "object"),
    "city": ("car", "car", "truck", "tower", "person"),
    "fields": ("car", "truck", "animal", "person", "tower"),
    "sea": ("boat", "surfer", "boat", "swimmer", "surfer", "object"),
    "coast": ("boat", "surfer", "tower", "boat", "tower"),
}
MAX_TWIN_TRIES = 30
"""Attempts to place a twin apart from the others and near the centre."""
FLOATING_KINDS = ("boat", "surfer", "swimmer")


def choose(rng: Rng, names: tuple[str, ...]) -> str:
    """Return a random name."""
    return names[int(rng.integers(len(names)))]


ActorSpec = tuple[Appearance, Trajectory, float]
"""Appearance, trajectory and speed in metres per second; the speed is 0 for static actors."""


def sample_actors(
    rng: Rng, site: str, main_kind: str, roads: tuple[Road, ...], world_m: float, view_m: float
) -> tuple[Actor, ...]:
    """Sample the actors of a scene near the centre of the world.

    These are moving actors, static ones of the same appearance, and other static ones.

    Args:
        rng: Random numbers.
        site: Kind of place, a key of `ACTOR_KINDS`.
        main_kind: Kind of the first actor.
        roads: Roads of the site.
        world_m: Width of the world in metres.
        view_m: Width of the view in metres.
    """
    centre = np.array([world_m / 2, world_m / 2])

    def sample_standing(appearance: Appearance, reach_m: float = view_m) -> ActorSpec:
        """Sample a position where an actor of the same kind could move, and keep it there."""
        trajectory = sample_trajectory(rng, appearance.kind, roads, centre, reach_m, 1.0)
        return appearance, StaticPose(*trajectory.pose_at(rng.uniform(-1, 1))), 0.0

    kinds = tuple(kind for kind in ACTOR_KINDS[site] if kind != "tower")
    specs: list[ActorSpec] = []
    if main_kind == "tower":
        specs.append((sample_appearance(rng, main_kind), StaticPose(world_m / 2, world_m / 2, 0.0), 0.0))
    lead = choose(rng, kinds) if main_kind == "tower" else main_kind
    movers = sample_movers(rng, lead, kinds, roads, centre, view_m)
    specs += movers
    if movers and rng.random() < 0.6:
        specs += [sample_standing(movers[0][0]) for _ in range(int(rng.integers(2, 7)))]
    if movers:
        others = int(rng.choice([0, 1, 2, 4], p=[0.4, 0.25, 0.2, 0.15]))
    else:
        specs.append(sample_standing(sample_appearance(rng, lead)))
        others = int(rng.integers(2, 6)) if rng.random() < 0.5 else 0
    specs += [sample_standing(sample_appearance(rng, choose(rng, kinds))) for _ in range(others)]
    if site in ("sea", "plaza", "court", "coast") and rng.random() < 0.2:
        crowd = "swimmer" if site in ("sea", "coast") else "person"
        count = int(rng.integers(5, 20))
        specs += [sample_standing(sample_appearance(rng, crowd), 1.4 * view_m) for _ in range(count)]
    return tuple(
        Actor(
            target_id,
            appearance,
            trajectory,
            float(rng.uniform(0, 2 * math.pi)),
            typical_gait_rate(appearance.kind, speed),
        )
        for target_id, (appearance, trajectory, speed) in enumerate(specs)
    )


def sample_twins(
    rng: Rng, kind: str, roads: tuple[Road, ...], world_m: float, view_m: float
) -> tuple[Actor, ...]:
    """Sample two to four actors of one appearance, of which one moves.

    All start on trajectories that suit their kind, so that position and heading do not reveal the moving one.
    """
    appearance, centre = sample_appearance(rng, kind), np.array([world_m / 2, world_m / 2])
    speed_factor = 1.3 * math.exp(rng.normal(0, 0.5))
    speed = CRUISE_SPEEDS_M_S[kind] * speed_factor * (min(view_m / 40, 1.0) if kind in VEHICLES else 1.0)
    trajectories: list[Trajectory] = []
    for _ in range(int(rng.integers(2, 5))):
        for _ in range(MAX_TWIN_TRIES):
            trajectory = sample_trajectory(rng, kind, roads, centre, view_m, speed)
            position = np.array(trajectory.pose_at(0.0)[:2])
            gaps = [float(np.hypot(*np.subtract(other.pose_at(0.0)[:2], position))) for other in trajectories]
            if (
                np.abs(position - centre).max() < 0.35 * view_m
                and min(gaps, default=9e9) > 1.5 * LENGTHS_M[kind]
            ):
                break
        trajectories.append(trajectory)
    mover = int(rng.integers(len(trajectories)))
    return tuple(
        Actor(
            target_id,
            appearance,
            trajectory if target_id == mover else StaticPose(*trajectory.pose_at(0.0)),
            float(rng.uniform(0, 2 * math.pi)),
            typical_gait_rate(kind, speed) if target_id == mover else 0.0,
        )
        for target_id, trajectory in enumerate(trajectories)
    )


def sample_movers(
    rng: Rng,
    lead: str,
    kinds: tuple[str, ...],
    roads: tuple[Road, ...],
    centre: Array,
    view_m: float,
) -> list[ActorSpec]:
    """Sample zero or more moving actors; the first is of the kind `lead`."""
    count = int(rng.choice([0, 1, 2, 3, 5], p=[0.1, 0.42, 0.24, 0.14, 0.1]))
    if roads and count and rng.random() < 0.5:
        count += int(rng.integers(1, 4))
    speed_factor = 1.3 * math.exp(rng.normal(0, 0.5))
    movers: list[ActorSpec] = []
    for k in range(count):
        kind = lead if k == 0 else choose(rng, kinds)
        speed = CRUISE_SPEEDS_M_S[kind] * speed_factor * rng.uniform(0.6, 1.4)
        if kind in VEHICLES:
            speed *= min(view_m / 40, 1.0)
        trajectory = sample_trajectory(rng, kind, roads, centre, view_m, speed)
        if kind == "boat" and rng.random() < 0.4:
            rider = TowedTrajectory(trajectory, rng.uniform(10, 18) / speed, rng.uniform(-6, 6))
            movers.append((sample_appearance(rng, "surfer"), rider, speed))
        movers.append((sample_appearance(rng, kind), trajectory, speed))
    return movers


def sample_trajectory(
    rng: Rng, kind: str, roads: tuple[Road, ...], centre: Array, view_m: float, speed: float
) -> Trajectory:
    """Sample a trajectory at a speed in metres per second.

    Vehicles follow a road, if there is one. Others do so, wander, or move straight on.
    """
    if roads and (kind in VEHICLES or (kind in ("cyclist", "person") and rng.random() < 0.5)):
        road = roads[int(rng.integers(len(roads)))]
        aside_m, heading = sample_lane(rng, kind, road)
        start_m = road.world_m / 2 + rng.uniform(-0.6, 0.6) * view_m
        if rng.random() < 0.4:
            start_m = rng.uniform(0, road.world_m)
        return RoadTrajectory(road, start_m, aside_m, speed * heading)
    start_point = centre + rng.uniform(-0.35, 0.35, 2) * view_m
    angle = rng.uniform(0, 2 * math.pi)
    is_straight = rng.random() < 0.15
    velocity = (speed * math.sin(angle), speed * math.cos(angle)) if is_straight else (0.0, 0.0)
    reach = view_m * rng.uniform(0.06, 0.35)
    period = 2 * math.pi * reach / speed * (1.0 if not is_straight else 2.5)
    if is_straight:
        reach *= 0.3
    return WanderTrajectory(
        float(start_point[0]),
        float(start_point[1]),
        velocity,
        (SineNoise.sample(rng, 2 * reach, period), SineNoise.sample(rng, 2 * reach, period)),
    )


def sample_lane(rng: Rng, kind: str, road: Road) -> tuple[float, float]:
    """Sample the offset from a road's centre line and the direction (+1 or -1), for right-hand traffic."""
    heading = 1.0 if rng.random() < 0.5 else -1.0
    side = heading if road.along_x else -heading
    fraction = rng.uniform(0.2, 0.28) if kind in VEHICLES else rng.uniform(0.35, 0.62)
    return -side * fraction * road.width_m, heading
