"""Objects that look like targets and are none: cones, posts, pylons, moored boats."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from edge.simulation.actors import Rods, build_mesh, sample_appearance
from edge.simulation.camera import Array
from edge.simulation.materials import Rng
from edge.simulation.mesh import Colour, Mesh, box

ORANGE: Colour = (30.0, 90.0, 235.0)
WHITE: Colour = (235.0, 238.0, 240.0)
STEEL: Colour = (120.0, 122.0, 125.0)
WOOD: Colour = (70.0, 85.0, 105.0)


def build_cone(rng: Rng) -> Mesh:
    """Build a traffic cone or a delineator."""
    high = rng.uniform(0.6, 1.1)
    faces = box((0.5, 0.5, 0.08), (40.0, 40.0, 45.0))
    faces += box((0.36, 0.36, 0.45 * high), ORANGE, at=(0, 0, 0.08), taper=(0.7, 0.7))
    faces += box((0.25, 0.25, 0.25 * high), WHITE, at=(0, 0, 0.08 + 0.45 * high), taper=(0.7, 0.7))
    faces += box((0.18, 0.18, 0.3 * high), ORANGE, at=(0, 0, 0.08 + 0.7 * high), taper=(0.2, 0.2))
    return Mesh.build(faces)


def build_barrier(rng: Rng) -> Mesh:
    """Build a striped or plain barrier."""
    pale = WHITE if rng.random() < 0.5 else (60.0, 200.0, 235.0)
    parts = int(rng.integers(2, 5))
    faces = []
    for i in range(parts):
        colour = pale if i % 2 else (40.0, 45.0, 205.0)
        faces += box((0.25, 0.7, 0.8), colour, at=(0, 0.7 * (i - parts / 2), 0.1))
    return Mesh.build(faces)


def build_post(rng: Rng) -> Mesh:
    """Build a mooring post, a bollard or a white pile."""
    style = rng.integers(3)
    high, radius = (rng.uniform(1.5, 3.0), 0.18) if style else (0.6, 0.25)
    colour = (WHITE, WOOD, (45.0, 45.0, 48.0))[int(rng.integers(3))]
    rods: Rods = [((0, 0, 0), (0, 0, high), radius, colour)]
    if style == 1:
        rods.append(((0, 0, high), (0, 0, high + 0.15), radius, ORANGE if rng.random() < 0.4 else WHITE))
    return Mesh.build(rods=rods)


def build_life_ring(rng: Rng) -> Mesh:
    """Build an orange box or a ring on a stand."""
    del rng
    return Mesh.build(box((0.35, 0.25, 0.7), ORANGE, at=(0, 0, 0.4)), [((0, 0, 0), (0, 0, 0.4), 0.06, STEEL)])


def build_moored_boat(rng: Rng) -> Mesh:
    """Build a boat that lies at a quay or at anchor."""
    return build_mesh(sample_appearance(rng, "boat"), 0.0)


def build_lamp_post(rng: Rng, high: float) -> Mesh:
    """Build a street lamp with its arm towards +y."""
    grey = rng.uniform(70, 160)
    colour = (grey, grey, grey)
    rods: Rods = [((0, 0, 0), (0, 0, high), 0.09, colour), ((0, 0, high), (0, 1.4, high + 0.2), 0.06, colour)]
    return Mesh.build(rods=rods)


def pylon_arms(high: float, steel: bool) -> Array:
    """Return where wires hang on a pylon along +y, (n, 3) in metres."""
    if not steel:
        return np.array([[x, 0.0, high - 0.3] for x in (-0.12 * high, 0.0, 0.12 * high)])
    return np.array(
        [
            [side * reach * high, 0.0, level * high - 0.06 * high]
            for reach, level in ((0.22, 0.72), (0.16, 0.88))
            for side in (-1, 1)
        ]
    )


def build_pylon(rng: Rng, high: float, steel: bool) -> Mesh:
    """Build a lattice tower, or a wooden mast with a cross arm, for wires along +y.

    Args:
        rng: Random numbers.
        high: Height in metres.
        steel: A lattice tower.
    """
    if not steel:
        arm = 0.14 * high
        rods: Rods = [
            ((0, 0, 0), (0, 0, high), 0.16, WOOD),
            ((-arm, 0, high - 0.5), (arm, 0, high - 0.5), 0.1, WOOD),
        ]
        if rng.random() < 0.3:
            rods.append(((0.3, 0, high - 2.0), (0.3, 0, high - 1.2), 0.35, STEEL))
        return Mesh.build(rods=rods)
    thin = 0.006 * high
    grey = rng.uniform(90, 190)
    colour = (grey, grey, grey)
    rods = []
    levels = np.linspace(0, 1, 7)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]

    def corner(i: int, level: float) -> tuple[float, float, float]:
        """Return a corner of the tower at a level from 0 to 1."""
        half = high * (0.11 * (1 - level) + 0.012)
        return corners[i % 4][0] * half, corners[i % 4][1] * half, level * high

    for i in range(4):
        rods.append((corner(i, 0), corner(i, 1), 1.4 * thin, colour))
        for low, top in pairwise(levels.tolist()):
            rods.append((corner(i, low), corner(i + 1, top), thin, colour))
    for reach, level in ((0.24, 0.72), (0.18, 0.88)):
        rods.append(((-reach * high, 0, level * high), (reach * high, 0, level * high), 1.5 * thin, colour))
    return Mesh.build(rods=rods)
