"""Actors of a scene: their appearance and meshes."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edge.simulation.mesh import Colour, Mesh, Point, box
from edge.simulation.trajectories import StaticPose, Trajectory

VEHICLES = ("car", "van", "truck", "bus")
LENGTHS_M = {
    "car": 4.5,
    "van": 5.2,
    "truck": 8.5,
    "bus": 11.0,
    "person": 1.75,
    "cyclist": 1.9,
    "animal": 1.9,
    "boat": 7.0,
    "surfer": 1.9,
    "swimmer": 1.0,
    "object": 1.5,
    "tower": 25.0,
    "bird": 1.2,
}
CRUISE_SPEEDS_M_S = {
    "car": 11.0,
    "van": 10.0,
    "truck": 9.0,
    "bus": 8.0,
    "person": 1.5,
    "cyclist": 4.5,
    "animal": 2.0,
    "boat": 7.0,
    "surfer": 6.0,
    "swimmer": 0.8,
    "object": 1.2,
    "tower": 0.0,
    "bird": 9.0,
}


@dataclass(frozen=True)
class Appearance:
    """Appearance of an actor. Two actors of equal appearance look the same.

    Attributes:
        kind: Such as "car" or "person".
        size: Scale of the mesh; 1 is the usual size.
        colours: Three colours, BGR.
        variant: Selects among the shapes of a kind.
    """

    kind: str
    size: float
    colours: tuple[Colour, Colour, Colour]
    variant: int


@dataclass(frozen=True)
class Actor:
    """An appearance that follows a trajectory.

    Attributes:
        target_id: Number of the actor in its scene.
        appearance: Its appearance.
        trajectory: Its trajectory.
        phase: Phase of its gait at time 0, in radians.
        gait_rate: Radians of gait per second; 0 for static actors.
    """

    target_id: int
    appearance: Appearance
    trajectory: Trajectory
    phase: float
    gait_rate: float

    @property
    def is_moving(self) -> bool:
        """Return whether the actor ever moves."""
        return not isinstance(self.trajectory, StaticPose)

    def mesh(self, time_s: float) -> Mesh:
        """Return the mesh at a time, with its foot at the origin."""
        return build_mesh(self.appearance, self.phase + self.gait_rate * time_s)


def sample_appearance(rng: np.random.Generator, kind: str) -> Appearance:
    """Sample the appearance of a kind."""
    return Appearance(
        kind,
        float(rng.uniform(0.85, 1.2)),
        (sample_paint_colour(rng, kind), sample_colour(rng), sample_colour(rng)),
        int(rng.integers(12)),
    )


def sample_colour(rng: np.random.Generator) -> Colour:
    """Sample a colour, BGR: dark or bright, grey or saturated."""
    level = rng.uniform(15, 245)
    tint = rng.normal(0, 1, 3) * (12 if rng.random() < 0.55 else 75)
    b, g, r = np.clip(level + tint - tint.mean(), 4, 252)
    return float(b), float(g), float(r)


def sample_paint_colour(rng: np.random.Generator, kind: str) -> Colour:
    """Sample the colour of a kind. Vehicles, boats and towers are mostly white, grey or black."""
    if kind in ("boat", "tower") or (kind in VEHICLES and rng.random() < 0.65):
        level = float(rng.choice([25, 45, 110, 165, 205, 232, 245]))
        b, g, r = np.clip(level + rng.normal(0, 5, 3), 4, 252)
        return float(b), float(g), float(r)
    return sample_colour(rng)


@functools.lru_cache(maxsize=256)
def build_mesh(appearance: Appearance, phase: float) -> Mesh:
    """Return the mesh of an appearance at a phase of its gait.

    A frame needs the same mesh several times, and most actors stand still: meshes are kept.
    """
    kind = appearance.kind
    if kind in VEHICLES:
        mesh = build_vehicle(appearance)
    elif kind == "boat":
        mesh = build_boat(appearance)
    elif kind in ("object", "tower"):
        mesh = build_object(appearance) if kind == "object" else build_tower(appearance)
    else:
        mesh = Mesh.build(rods=LIVING_BUILDERS[kind](appearance, phase))
    size = appearance.size
    return Mesh(mesh.faces * size, mesh.face_colours, mesh.rods * size, mesh.radii * size, mesh.rod_colours)


def scale_colour(colour: Colour, factor: float) -> Colour:
    """Return the colour multiplied by a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


GLASS: Colour = (58.0, 52.0, 46.0)
TYRE: Colour = (28.0, 28.0, 28.0)
SKINS: tuple[Colour, ...] = ((140, 170, 215), (90, 125, 180), (55, 80, 125), (35, 50, 80))
HAIR: tuple[Colour, ...] = ((25, 25, 30), (30, 45, 70), (70, 110, 150), (190, 190, 190))


def build_vehicle(appearance: Appearance) -> Mesh:
    """Build a car, van, truck or bus from boxes."""
    paint, second = appearance.colours[0], appearance.colours[1]
    length = LENGTHS_M[appearance.kind]
    wide = 1.85 if appearance.kind in ("car", "van") else 2.5
    faces = box((wide * 0.96, length * 0.94, 0.5), TYRE)
    if appearance.kind == "car":
        faces += box((wide, length, 0.55), paint, at=(0, 0, 0.4), taper=(0.95, 0.97))
        back = -0.3 if appearance.variant % 3 else -0.05
        cabin = length * (0.5 if appearance.variant % 3 else 0.62)
        roof = second if appearance.variant == 5 else paint
        faces += box((wide * 0.9, cabin, 0.55), GLASS, roof, at=(0, back, 0.95), taper=(0.82, 0.62))
    elif appearance.kind == "van":
        faces += box((wide, length, 0.6), paint, at=(0, 0, 0.4))
        faces += box(
            (wide * 0.97, length * 0.94, 0.9),
            scale_colour(paint, 0.8),
            paint,
            at=(0, -0.1, 1.0),
            taper=(0.9, 0.85),
        )
        faces += box((wide * 0.8, 0.5, 0.55), GLASS, at=(0, length * 0.40, 1.0), taper=(0.9, 0.2))
    elif appearance.kind == "truck":
        cab = second if appearance.variant % 2 else paint
        faces += box(
            (wide, length * 0.66, 2.4), scale_colour(paint, 0.85), paint, at=(0, -length * 0.17, 0.6)
        )
        faces += box((wide * 0.95, length * 0.24, 1.7), cab, at=(0, length * 0.36, 0.5))
        faces += box((wide * 0.8, 0.3, 0.7), GLASS, at=(0, length * 0.47, 1.3))
    else:
        faces += box((wide, length, 1.0), paint, at=(0, 0, 0.4))
        faces += box((wide * 0.99, length * 0.99, 0.8), GLASS, at=(0, 0, 1.4))
        faces += box((wide, length, 0.3), paint, second if appearance.variant % 2 else paint, at=(0, 0, 2.2))
        faces += box((wide * 0.5, length * 0.2, 0.25), scale_colour(paint, 0.7), at=(0, -2, 2.5))
    lamps: list[tuple[Point, Point, float, Colour]] = []
    if appearance.kind in ("car", "van"):
        for side in (-0.7, 0.7):
            lamps.append(((side, length / 2, 0.7), (side, length / 2, 0.7), 0.11, (225, 240, 245)))
            lamps.append(((side, -length / 2, 0.8), (side, -length / 2, 0.8), 0.11, (40, 30, 190)))
    return Mesh.build(faces, lamps)


def build_boat(appearance: Appearance) -> Mesh:
    """Build a hull with a pointed bow, a deck and people.

    Some variants have a cabin, a roof or a sail.
    """
    hull, deck, extra = appearance.colours
    slim = 0.32 if appearance.variant % 4 else 0.16
    length, half = LENGTHS_M["boat"], LENGTHS_M["boat"] * slim / 2
    outline = np.array(
        [
            [-half, -length / 2],
            [half, -length / 2],
            [half, length * 0.15],
            [0, length / 2],
            [-half, length * 0.15],
        ]
    )
    low = np.column_stack([outline * [0.85, 0.92], np.zeros(5)])
    high = np.column_stack([outline, np.full(5, 0.9)])
    faces = [(np.array([low[i], low[(i + 1) % 5], high[(i + 1) % 5], high[i]]), hull) for i in range(5)]
    faces.append((high, hull))
    inner = np.column_stack([outline * [0.75, 0.85], np.full(5, 0.92)])
    faces.append((inner, scale_colour(deck, 0.8)))
    if appearance.variant % 4 == 1:
        faces += box((half * 1.2, length * 0.3, 1.1), GLASS, hull, at=(0, -0.3, 0.95))
    elif appearance.variant % 4 == 2:
        faces += box((half * 1.4, length * 0.32, 0.15), extra, at=(0, -0.6, 2.4))
    rods: list[tuple[Point, Point, float, Colour]] = []
    for i in range(1 + appearance.variant % 3):
        y = -length * 0.25 + 1.3 * i
        rods.append(((0.3 * (-1) ** i, y, 0.9), (0.3 * (-1) ** i, y, 1.6), 0.22, extra))
        rods.append(((0.3 * (-1) ** i, y, 1.85), (0.3 * (-1) ** i, y, 1.85), 0.14, SKINS[i % 4]))
    if appearance.variant == 7:
        faces.append((np.array([[0, -2.5, 1.4], [0.05, 1.2, 1.4], [0.02, 1.2, 8.5]]), deck))
        faces.append((np.array([[0.02, 1.2, 8.5], [0.05, 1.2, 1.4], [0, -2.5, 1.4]]), deck))
    return Mesh.build(faces, rods)


def build_object(appearance: Appearance) -> Mesh:
    """Build a single object: ball, crate, tent, sign, umbrella or barrel."""
    a, b, c = appearance.colours
    variant = appearance.variant % 6
    if variant == 0:
        return Mesh.build(rods=[((0, 0, 0.5), (0, 0, 0.5), 0.55, a)])
    if variant == 1:
        return Mesh.build(box((1.5, 1.2, 1.0), a, b))
    if variant == 2:
        return Mesh.build(box((2.2, 2.2, 1.5), a, a, taper=(0.02, 0.02)))
    if variant == 3:
        return Mesh.build(
            rods=[
                ((0, 0, 0), (0, 0, 2.2), 0.06, (150, 150, 150)),
                ((0, 0, 2.4), (0, 0, 2.4), 0.55, a),
                ((0, 0, 2.4), (0, 0, 2.4), 0.33, b),
            ]
        )
    if variant == 4:
        return Mesh.build(
            box((2.6, 2.6, 0.6), a, b, at=(0, 0, 1.9), taper=(0.1, 0.1)),
            [((0, 0, 0), (0, 0, 1.9), 0.05, c)],
        )
    return Mesh.build(rods=[((0, 0, 0.3), (0, 0, 1.0), 0.4, a), ((0, 0, 1.1), (0, 0, 1.1), 0.2, b)])


def build_tower(appearance: Appearance) -> Mesh:
    """Build a tall, isolated building: lighthouse, mast or tower block."""
    a, b, _ = appearance.colours
    high = 25.0 + 4.0 * (appearance.variant % 5)
    wide = 6.0 + 1.5 * (appearance.variant % 4)
    narrow = (1.0, 0.8, 0.55)[appearance.variant % 3]
    faces = box((wide * 1.6, wide * 1.6, high * 0.12), scale_colour(a, 0.8))
    faces += box((wide, wide, high * 0.7), a, at=(0, 0, high * 0.12), taper=(narrow, narrow))
    faces += box((wide * narrow * 1.2, wide * narrow * 1.2, high * 0.06), b, at=(0, 0, high * 0.82))
    faces += box(
        (wide * narrow * 0.6, wide * narrow * 0.6, high * 0.12),
        a,
        b,
        at=(0, 0, high * 0.88),
        taper=(0.4, 0.4),
    )
    return Mesh.build(faces)


Rods = list[tuple[Point, Point, float, Colour]]


def build_person(appearance: Appearance, phase: float) -> Rods:
    """Build a person who walks along +y; legs and arms swing with the phase."""
    shirt, trousers, bag = appearance.colours
    skin, hair = SKINS[appearance.variant % 4], HAIR[appearance.variant // 3 % 4]
    swing = 0.38 * math.sin(phase)
    if appearance.variant in (4, 9):  # a robe hides the legs
        return [
            ((0, 0.3 * swing, 0.12), (0, 0, 1.25), 0.26, shirt),
            ((0, 0, 1.57), (0, 0, 1.6), 0.13, hair),
        ]
    rods: Rods = [
        ((0.1, swing, 0.08), (0.09, 0, 0.88), 0.1, trousers),
        ((-0.1, -swing, 0.08), (-0.09, 0, 0.88), 0.1, trousers),
        ((0.27, -0.75 * swing, 0.9), (0.22, 0, 1.38), 0.07, skin if appearance.variant % 2 else shirt),
        ((-0.27, 0.75 * swing, 0.9), (-0.22, 0, 1.38), 0.07, skin if appearance.variant % 2 else shirt),
        ((0, 0, 0.95), (0, 0, 1.32), 0.2, shirt),
    ]
    if appearance.variant % 5 == 1:
        rods.append(((0, -0.22, 1.05), (0, -0.22, 1.3), 0.17, bag))
    rods.append(((0, 0.02, 1.6), (0, 0.02, 1.6), 0.125, skin))
    rods.append(((0, -0.02, 1.66), (0, -0.02, 1.66), 0.12, hair))
    return rods


def build_cyclist(appearance: Appearance, phase: float) -> Rods:
    """Build a rider on two wheels, along +y."""
    shirt, trousers, frame = appearance.colours
    skin = SKINS[appearance.variant % 4]
    rods: Rods = []
    for centre in (-0.52, 0.52):
        rim = [
            (0.0, centre + 0.33 * math.cos(a), 0.34 + 0.33 * math.sin(a))
            for a in np.linspace(0, 2 * math.pi, 7)
        ]
        rods += [(p, q, 0.035, TYRE) for p, q in pairwise(rim)]
    rods += [
        ((0, -0.5, 0.35), (0, 0.35, 0.75), 0.04, frame),
        ((0, 0.52, 0.35), (0, 0.4, 1.0), 0.04, frame),
    ]
    for side, turn in ((0.11, phase), (-0.11, phase + math.pi)):
        foot = (side, 0.17 * math.cos(turn), 0.32 + 0.15 * math.sin(turn))
        rods.append((foot, (side, -0.18, 0.9), 0.09, trousers))
    rods += [
        ((0, -0.2, 0.98), (0, 0.08, 1.35), 0.2, shirt),
        ((0.2, 0.38, 1.02), (0.17, 0.1, 1.38), 0.06, skin),
        ((-0.2, 0.38, 1.02), (-0.17, 0.1, 1.38), 0.06, skin),
        ((0, 0.2, 1.62), (0, 0.2, 1.62), 0.13, HAIR[appearance.variant // 3 % 4]),
    ]
    return rods


def build_animal(appearance: Appearance, phase: float) -> Rods:
    """Build a four-legged animal that walks along +y."""
    coat, patch, _ = appearance.colours
    swing = 0.25 * math.sin(phase)
    rods: Rods = []
    for side in (-0.18, 0.18):
        for y, direction in ((-0.5, 1), (0.5, -1)):
            step = swing * direction * math.copysign(1, side)
            rods.append(((side, y + step, 0.05), (side, y, 0.7), 0.08, scale_colour(coat, 0.7)))
    rods += [
        ((0, -0.55, 0.85), (0, 0.5, 0.9), 0.3, coat),
        ((0, -0.1, 1.0), (0, 0.15, 1.0), 0.24, patch if appearance.variant % 2 else coat),
        ((0, 0.55, 1.0), (0, 0.85, 1.25), 0.13, coat),
        ((0, 0.85, 1.28), (0, 1.05, 1.2), 0.13, scale_colour(coat, 0.8)),
    ]
    return rods


def build_surfer(appearance: Appearance, phase: float) -> Rods:
    """Build a crouching surfer on a board along +y, with one arm stretched out."""
    suit, shorts, board = appearance.colours
    skin = SKINS[appearance.variant % 4]
    bob = 0.05 * math.sin(phase)
    return [
        ((0, -0.9, 0.08), (0, 0.9, 0.1), 0.22, board),
        ((0.05, -0.4, 0.15), (0, -0.1, 0.7 + bob), 0.11, shorts),
        ((-0.05, 0.4, 0.15), (0, 0.0, 0.7 + bob), 0.11, shorts),
        ((0, -0.05, 0.75 + bob), (0.05, 0.15, 1.2 + bob), 0.2, suit),
        ((0, 0.15, 1.15 + bob), (0.3, 0.6, 1.0 + bob), 0.07, skin),
        ((0, 0.1, 1.15 + bob), (-0.4, -0.3, 1.05 + bob), 0.07, skin),
        ((0.06, 0.22, 1.45 + bob), (0.06, 0.22, 1.45 + bob), 0.13, HAIR[appearance.variant // 3 % 4]),
    ]


def build_swimmer(appearance: Appearance, phase: float) -> Rods:
    """Build head and shoulders in the water; some variants have a board."""
    suit, _, board = appearance.colours
    rods: Rods = []
    if appearance.variant % 2:
        rods.append(((0, -0.8, 0.04), (0, 0.8, 0.06), 0.2, board))
    lift = 0.04 * math.sin(phase)
    rods += [
        ((0, -0.3, 0.1), (0, 0.1, 0.45 + lift), 0.2, scale_colour(suit, 0.6)),
        ((0, 0.15, 0.72 + lift), (0, 0.15, 0.72 + lift), 0.13, HAIR[appearance.variant // 3 % 4]),
    ]
    return rods


def build_bird(appearance: Appearance, phase: float) -> Rods:
    """Build a bird in flight along +y, some metres above the ground, with beating wings."""
    coat, tip, _ = appearance.colours
    high = 3.0 + 1.5 * appearance.variant
    beat = 0.35 * math.sin(phase)
    rods: Rods = [((0, -0.25, high), (0, 0.3, high), 0.1, coat)]
    for side in (-1.0, 1.0):
        elbow = (0.35 * side, 0.1, high + 0.6 * beat)
        rods.append(((0, 0.08, high), elbow, 0.07, coat))
        rods.append((elbow, (0.7 * side, -0.08, high + beat), 0.05, tip))
    return rods


LIVING_BUILDERS = {
    "person": build_person,
    "cyclist": build_cyclist,
    "animal": build_animal,
    "surfer": build_surfer,
    "swimmer": build_swimmer,
    "bird": build_bird,
}


def typical_gait_rate(kind: str, speed: float) -> float:
    """Return the gait of a kind of actor, in radians per second, at a speed in metres per second."""
    per_metre = {"person": 4.3, "cyclist": 1.3, "animal": 3.5, "surfer": 0.6, "swimmer": 2.5, "bird": 2.2}
    return per_metre.get(kind, 0.0) * speed
