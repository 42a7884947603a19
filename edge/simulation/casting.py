"""Who is in a scene: movers and what stands about them, or identical twins of which one moves."""

from __future__ import annotations

import math

import numpy as np

from edge.simulation.actors import (
    CRUISE_M_S,
    LENGTHS_M,
    VEHICLES,
    Actor,
    Drive,
    Look,
    Road,
    Roam,
    Stand,
    Towed,
    Way,
    draw_look,
    gait,
)
from edge.simulation.camera import Array, Sway
from edge.simulation.materials import Rng

CASTS: dict[str, tuple[str, ...]] = {
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
TRIES = 30
"""Places tried for a twin, until one is apart from the others and near the middle."""
AFLOAT = ("boat", "surfer", "swimmer")


def pick(rng: Rng, names: tuple[str, ...]) -> str:
    """One of the names."""
    return names[int(rng.integers(len(names)))]


Part = tuple[Look, Way, float]  # the float: metres a second, 0 for what stands


def cast_actors(
    rng: Rng, lot: str, hero: str, roads: tuple[Road, ...], world_m: float, view_m: float
) -> tuple[Actor, ...]:
    """Movers about the middle of the world, their static twins, and others that stand."""
    middle = np.array([world_m / 2, world_m / 2])

    def standing(look: Look, reach_m: float = view_m) -> Part:
        """Somebody of a look who stays where movers of the kind might be."""
        way = moving_way(rng, look.kind, roads, middle, reach_m, 1.0)
        return look, Stand(*way.at(rng.uniform(-1, 1))), 0.0

    kinds = tuple(kind for kind in CASTS[lot] if kind != "tower")
    parts: list[Part] = []
    if hero == "tower":
        parts.append((draw_look(rng, hero), Stand(world_m / 2, world_m / 2, 0.0), 0.0))
    lead = pick(rng, kinds) if hero == "tower" else hero
    movers = draw_movers(rng, lead, kinds, roads, middle, view_m)
    parts += movers
    if movers and rng.random() < 0.6:
        parts += [standing(movers[0][0]) for _ in range(int(rng.integers(2, 7)))]
    if movers:
        others = int(rng.choice([0, 1, 2, 4], p=[0.4, 0.25, 0.2, 0.15]))
    else:
        parts.append(standing(draw_look(rng, lead)))
        others = int(rng.integers(2, 6)) if rng.random() < 0.5 else 0
    parts += [standing(draw_look(rng, pick(rng, kinds))) for _ in range(others)]
    if lot in ("sea", "plaza", "court", "coast") and rng.random() < 0.2:
        crowd = "swimmer" if lot in ("sea", "coast") else "person"
        count = int(rng.integers(5, 20))
        parts += [standing(draw_look(rng, crowd), 1.4 * view_m) for _ in range(count)]
    return tuple(
        Actor(ident, look, way, float(rng.uniform(0, 2 * math.pi)), gait(look.kind, speed))
        for ident, (look, way, speed) in enumerate(parts)
    )


def cast_twins(
    rng: Rng, kind: str, roads: tuple[Road, ...], world_m: float, view_m: float
) -> tuple[Actor, ...]:
    """Two to four of one look, each on a way of its kind about the middle; all but one stand on theirs."""
    look, middle = draw_look(rng, kind), np.array([world_m / 2, world_m / 2])
    pace = 1.3 * math.exp(rng.normal(0, 0.5))
    speed = CRUISE_M_S[kind] * pace * (min(view_m / 40, 1.0) if kind in VEHICLES else 1.0)
    ways: list[Way] = []
    for _ in range(int(rng.integers(2, 5))):
        for _ in range(TRIES):
            way = moving_way(rng, kind, roads, middle, view_m, speed)
            here = np.array(way.at(0.0)[:2])
            gaps = [float(np.hypot(*np.subtract(other.at(0.0)[:2], here))) for other in ways]
            if np.abs(here - middle).max() < 0.35 * view_m and min(gaps, default=9e9) > 1.5 * LENGTHS_M[kind]:
                break
        ways.append(way)
    mover = int(rng.integers(len(ways)))
    return tuple(
        Actor(
            ident,
            look,
            way if ident == mover else Stand(*way.at(0.0)),
            float(rng.uniform(0, 2 * math.pi)),
            gait(kind, speed) if ident == mover else 0.0,
        )
        for ident, way in enumerate(ways)
    )


def draw_movers(
    rng: Rng,
    lead: str,
    kinds: tuple[str, ...],
    roads: tuple[Road, ...],
    middle: Array,
    view_m: float,
) -> list[Part]:
    """None to several that move, the first of the kind `lead`."""
    count = int(rng.choice([0, 1, 2, 3, 5], p=[0.1, 0.42, 0.24, 0.14, 0.1]))
    if roads and count and rng.random() < 0.5:
        count += int(rng.integers(1, 4))
    pace = 1.3 * math.exp(rng.normal(0, 0.5))
    movers: list[Part] = []
    for k in range(count):
        kind = lead if k == 0 else pick(rng, kinds)
        speed = CRUISE_M_S[kind] * pace * rng.uniform(0.6, 1.4)
        if kind in VEHICLES:
            speed *= min(view_m / 40, 1.0)
        way = moving_way(rng, kind, roads, middle, view_m, speed)
        if kind == "boat" and rng.random() < 0.4:
            rider = Towed(way, rng.uniform(10, 18) / speed, rng.uniform(-6, 6))
            movers.append((draw_look(rng, "surfer"), rider, speed))
        movers.append((draw_look(rng, kind), way, speed))
    return movers


def moving_way(
    rng: Rng, kind: str, roads: tuple[Road, ...], middle: Array, view_m: float, speed: float
) -> Way:
    """Along a road for what drives, else wandering or straight on, at metres a second."""
    if roads and (kind in VEHICLES or (kind in ("cyclist", "person") and rng.random() < 0.5)):
        road = roads[int(rng.integers(len(roads)))]
        aside, heading = lane(rng, kind, road)
        start = road.world_m / 2 + rng.uniform(-0.6, 0.6) * view_m
        if rng.random() < 0.4:
            start = rng.uniform(0, road.world_m)
        return Drive(road, start, aside, speed * heading)
    place = middle + rng.uniform(-0.35, 0.35, 2) * view_m
    angle = rng.uniform(0, 2 * math.pi)
    straight = rng.random() < 0.15
    cruise = (speed * math.sin(angle), speed * math.cos(angle)) if straight else (0.0, 0.0)
    reach = view_m * rng.uniform(0.06, 0.35)
    period = 2 * math.pi * reach / speed * (1.0 if not straight else 2.5)
    if straight:
        reach *= 0.3
    return Roam(
        float(place[0]),
        float(place[1]),
        cruise,
        (Sway.draw(rng, 2 * reach, period), Sway.draw(rng, 2 * reach, period)),
    )


def lane(rng: Rng, kind: str, road: Road) -> tuple[float, float]:
    """Distance aside and direction (+1 or -1) of somebody on a road; right-hand traffic."""
    heading = 1.0 if rng.random() < 0.5 else -1.0
    side = heading if road.along_x else -heading
    share = rng.uniform(0.2, 0.28) if kind in VEHICLES else rng.uniform(0.35, 0.62)
    return -side * share * road.width_m, heading
