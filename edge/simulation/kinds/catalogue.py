"""Names of the kinds of scenes, and how often each place and each condition occurs."""

from __future__ import annotations

from dataclasses import dataclass

from edge.simulation.materials import Rng

VARIED, EMPTY = "varied", "empty"
"""Kinds that mix all places and conditions: with targets, and without any."""


@dataclass(frozen=True)
class Place:
    """What stands where.

    Attributes:
        sites: Sites of `scene_builder.SITE_WEIGHTS`, of which one gives ground, roads and scenery.
        mains: Kinds of the main actor.
        weight: Frequency among the places of mixed kinds.
        horizon: Frequency of a view that shows the horizon.
        on_water: Most of the place is water.
    """

    sites: tuple[str, ...]
    mains: tuple[str, ...]
    weight: float
    horizon: float
    on_water: bool = False


ROAD_USERS = ("car", "car", "car", "van", "truck", "bus", "cyclist", "person")
LAND_SITES = (
    "street",
    "street",
    "highway",
    "meadow",
    "meadow",
    "plaza",
    "carpark",
    "court",
    "city",
    "fields",
)
PLACES: dict[str, Place] = {
    "plain": Place(LAND_SITES, (*ROAD_USERS, "person", "person", "animal", "object"), 0.24, 0.2),
    "wake": Place(("sea",), ("boat", "surfer", "surfer"), 0.14, 0.45, on_water=True),
    "surf": Place(("sea",), ("surfer", "surfer", "swimmer"), 0.07, 0.3, on_water=True),
    "harbour": Place(("sea",), ("boat", "boat", "boat", "swimmer"), 0.09, 0.3, on_water=True),
    "coast": Place(("coast",), ("boat", "surfer", "boat", "tower"), 0.06, 0.5, on_water=True),
    "town": Place(("city", "street", "meadow"), ("car", "truck", "van", "bus", "person"), 0.08, 0.5),
    "powerline": Place(("fields", "highway", "meadow", "street"), ("car", "truck", "person"), 0.08, 0.4),
    "roadworks": Place(("street", "highway", "carpark"), ROAD_USERS, 0.1, 0.35),
    "crowd": Place(("plaza", "court", "meadow"), ("person", "person", "cyclist"), 0.08, 0.2),
    "wildlife": Place(("meadow", "fields"), ("person", "car", "animal"), 0.06, 0.25),
}
BLANKS = ("sky", "noise")
"""Places with nothing at all in them, for scenes without targets."""
CONDITIONS = {"day": 0.58, "low-sun": 0.12, "night": 0.12, "thermal": 0.18}
"""Light and sensor, with their frequency in mixed kinds."""
NAMED_CONDITIONS = {"day": 0.85, "low-sun": 0.15}
"""Light of a place that is asked for by name."""
TWIN_PLACES = ("plain", "town", "powerline", "roadworks")
"""Places on land where nothing else looks like the twins."""
WARM_CROWDS = ("crowd", "surf")
"""Places that thermal scenes leave out: people are what one looks for in them, not a crowd to look past."""
KINDS = (VARIED, *PLACES, *(name for name in CONDITIONS if name != "day"), EMPTY, *BLANKS)


@dataclass(frozen=True)
class Setting:
    """A place under a condition, with or without targets."""

    place: str
    condition: str
    is_empty: bool


def sample_setting(rng: Rng, kind: str, twins: bool, empty: bool) -> Setting:
    """Sample the setting of a scene.

    Args:
        rng: Random numbers.
        kind: One of `KINDS`.
        twins: The scene needs a place on land without doubles of the twins.
        empty: The scene has no targets.
    """
    empty = empty or kind == EMPTY or kind in BLANKS
    conditions = CONDITIONS
    if kind in CONDITIONS:
        conditions = {kind: 1.0}
    elif kind in PLACES:
        conditions = NAMED_CONDITIONS
    condition = _choose(rng, conditions)
    if kind in PLACES or kind in BLANKS:
        return Setting(kind, condition, empty)
    weights = {name: place.weight for name, place in PLACES.items()}
    if twins:
        weights = {name: weight for name, weight in weights.items() if name in TWIN_PLACES}
    if condition == "thermal":
        weights = {name: weight for name, weight in weights.items() if name not in WARM_CROWDS}
        weights["plain"] = sum(weights.values())
    if empty:
        weights |= dict.fromkeys(BLANKS, 0.12)
    return Setting(_choose(rng, weights), condition, empty)


def _choose(rng: Rng, weights: dict[str, float]) -> str:
    total = sum(weights.values())
    return str(rng.choice(list(weights), p=[weight / total for weight in weights.values()]))
