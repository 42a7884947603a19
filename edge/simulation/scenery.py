"""Static objects that are no targets: buildings, trees, poles, rocks, parked cars."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edge.simulation.actors import SKINS, Rods, build_mesh, sample_appearance, sample_colour, scale_colour
from edge.simulation.mesh import Colour, Mesh, box

Rng = np.random.Generator


def sample_wall_colour(rng: Rng) -> Colour:
    """Sample the colour of plaster, concrete or brick."""
    if rng.random() < 0.2:
        return sample_colour(rng)
    level = rng.uniform(80, 240)
    warm = rng.uniform(0, 0.25)
    return level * (1 - warm), level * (1 - warm / 2), level


def sample_green(rng: Rng) -> Colour:
    """Sample the colour of leaves, from lush to dry."""
    level = rng.uniform(45, 125)
    return level * rng.uniform(0.3, 0.65), level, level * rng.uniform(0.55, 1.05)


def build_house(rng: Rng) -> Mesh:
    """Build a gabled house, or a block with windows and a flat roof with objects on it."""
    wall, roof = sample_wall_colour(rng), sample_wall_colour(rng)
    x, y = rng.uniform(7, 22, 2)
    z = float(rng.choice([3.5, 4, 6.5, 7, 10, 16]))
    faces = []
    if rng.random() < 0.4:
        roof = sample_colour(rng) if rng.random() < 0.4 else (60.0, 75.0, rng.uniform(100, 170))
        faces += box((x, y, z), wall)
        rise = 0.3 * min(x, y)
        hx, hy = x * 0.54, y * 0.54
        ridge = np.array([[0, -hy, z + rise], [0, hy, z + rise]])
        west = np.array([[-hx, hy, z], [-hx, -hy, z], ridge[0], ridge[1]])
        east = np.array([[hx, -hy, z], [hx, hy, z], ridge[1], ridge[0]])
        faces += [
            (np.array([[-hx, -hy, z], [hx, -hy, z], ridge[0]]), wall),
            (np.array([[hx, hy, z], [-hx, hy, z], ridge[1]]), wall),
            (west, roof),
            (east, roof),
        ]
        return Mesh.build(faces)
    faces += box((x, y, z), wall, roof)
    pane = scale_colour(wall, 0.45)
    for floor in range(int(z / 3.2)):
        low = 1.0 + 3.2 * floor
        count = max(int(x / 3.5), 1)
        for i in range(count):
            at = -x / 2 + (i + 0.5) * x / count
            pane_box = box((0.5 * x / count, y + 0.06, 1.5), pane, at=(at, 0, low))
            faces += [pane_box[0], pane_box[2]]
    faces += box((x * 0.9, y * 0.9, 0.05), scale_colour(roof, 0.9), at=(0, 0, z))
    for _ in range(int(rng.integers(0, 6))):
        size = (rng.uniform(0.8, 3), rng.uniform(0.8, 3), rng.uniform(0.5, 1.8))
        px, py = rng.uniform(-0.35, 0.35, 2) * (x, y)
        faces += box(size, sample_wall_colour(rng), at=(float(px), float(py), z))
    return Mesh.build(faces)


def build_canopy(rng: Rng) -> Mesh:
    """Build a roof on posts."""
    x, y, z = rng.uniform(4, 9), rng.uniform(6, 18), rng.uniform(2.5, 4)
    colour = sample_wall_colour(rng)
    faces = box((x, y, 0.12), scale_colour(colour, 0.8), colour, at=(0, 0, z))
    for i in range(1, int(y / 4)):
        at = -y / 2 + 4 * i
        faces += box((x, 0.12, 0.05), scale_colour(colour, 0.75), at=(0, float(at), z + 0.12))
    posts: Rods = [
        ((sx * x / 2, sy * y / 2, 0), (sx * x / 2, sy * y / 2, z), 0.08, (150, 150, 150))
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return Mesh.build(faces, posts)


def build_container(rng: Rng) -> Mesh:
    """Build a large plain box."""
    colour = sample_colour(rng)
    size = (rng.uniform(2, 4), rng.uniform(3, 9), rng.uniform(1.2, 3))
    return Mesh.build(box(size, colour, scale_colour(colour, rng.uniform(0.7, 1.1))))


def build_wall(rng: Rng) -> Mesh:
    """Build a piece of wall, kerb or fence."""
    return Mesh.build(
        box((rng.uniform(0.2, 0.5), rng.uniform(5, 25), rng.uniform(0.3, 2.2)), sample_wall_colour(rng))
    )


def build_tree(rng: Rng) -> Mesh:
    """Build a tree with a round crown of many balls, brighter at the top."""
    leaf, crown, high = sample_green(rng), rng.uniform(1.0, 2.8), rng.uniform(1.5, 4.0)
    rods: Rods = [((0, 0, 0), (0, 0, high), 0.15 + 0.04 * crown, (50, 65, 85))]
    spots = rng.normal(0, 0.5, (int(rng.integers(9, 20)), 3)) * crown * [1, 1, 0.6]
    for spot in spots[np.argsort(spots[:, 2])]:
        shade = 0.75 + 0.25 * spot[2] / (0.6 * crown) + rng.normal(0, 0.12)
        at = (float(spot[0]), float(spot[1]), float(high + 0.4 * crown + spot[2]))
        rods.append((at, at, crown * rng.uniform(0.25, 0.5), scale_colour(leaf, max(shade, 0.3))))
    return Mesh.build(rods=rods)


def build_bush(rng: Rng) -> Mesh:
    """Build a bush, sometimes dry."""
    leaf = sample_green(rng) if rng.random() < 0.7 else (80.0, 115.0, 145.0)
    rods: Rods = []
    for _ in range(int(rng.integers(4, 11))):
        x, y = rng.normal(0, 0.6, 2)
        at = (float(x), float(y), float(rng.uniform(0.2, 0.8)))
        rods.append((at, at, rng.uniform(0.2, 0.6), scale_colour(leaf, rng.uniform(0.5, 1.3))))
    return Mesh.build(rods=rods)


def build_conifer(rng: Rng) -> Mesh:
    """Build a dark cone."""
    leaf, high = scale_colour(sample_green(rng), 0.7), rng.uniform(4, 9)
    rods: Rods = []
    for i in range(6):
        z = high * (0.15 + 0.14 * i)
        wide = 0.22 * high * (1 - i / 6.5)
        rods.append(((0, 0, z), (0, 0, z), wide, scale_colour(leaf, 0.7 + 0.1 * i)))
    return Mesh.build(rods=rods)


def build_palm(rng: Rng) -> Mesh:
    """Build a palm: a bare trunk below drooping fronds."""
    leaf, high = sample_green(rng), rng.uniform(2.5, 7)
    lean = rng.normal(0, 0.3, 2)
    head = (float(lean[0]), float(lean[1]), high)
    rods: Rods = [((0, 0, 0), head, 0.17, (70, 90, 110))]
    for i in range(13):
        angle, reach = i * 2.4 + rng.uniform(0, 1), rng.uniform(1.3, 2.2)
        dx, dy = reach * math.cos(angle), reach * math.sin(angle)
        mid = (head[0] + dx * 0.6, head[1] + dy * 0.6, high + rng.uniform(0.1, 0.8))
        tip = (head[0] + dx, head[1] + dy, high - rng.uniform(0.1, 1.0))
        shade = scale_colour(leaf, rng.uniform(0.6, 1.25))
        rods += [(head, mid, 0.14, shade), (mid, tip, 0.11, shade)]
    return Mesh.build(rods=rods)


def build_pole(rng: Rng) -> Mesh:
    """Build a lamp post, mast or sign."""
    grey = rng.uniform(60, 230)
    colour, high = (grey, grey, grey), rng.uniform(3, 9)
    rods: Rods = [((0, 0, 0), (0, 0, high), 0.08, colour)]
    variant = rng.integers(3)
    if variant == 0:
        rods.append(((0, 0, high), (0, 1.3, high + 0.2), 0.06, colour))
        rods.append(((0, 1.2, high + 0.15), (0, 1.7, high + 0.2), 0.13, colour))
    elif variant == 1:
        sign = sample_colour(rng)
        rods.append(((0, 0, high * 0.8), (0, 0, high * 0.8), rng.uniform(0.3, 0.6), sign))
    return Mesh.build(rods=rods)


def build_rock(rng: Rng) -> Mesh:
    """Build a boulder or a heap of rubble."""
    level = rng.uniform(60, 200)
    rods: Rods = []
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.normal(0, 0.5, 2)
        shade = level * rng.uniform(0.6, 1.2)
        at = (float(x), float(y), 0.1)
        rods.append(
            (
                at,
                (at[0] + rng.uniform(-0.5, 0.5), at[1] + rng.uniform(-0.5, 0.5), 0.15),
                rng.uniform(0.15, 0.6),
                (shade * 0.9, shade * 0.96, shade),
            )
        )
    return Mesh.build(rods=rods)


def build_debris(rng: Rng) -> Mesh:
    """Build fallen branches or rags: thin rods in all directions."""
    colour = sample_colour(rng)
    rods: Rods = []
    for _ in range(int(rng.integers(4, 12))):
        x, y, dx, dy = rng.normal(0, 0.7, 4)
        rods.append(
            (
                (float(x), float(y), 0.1),
                (float(x + dx), float(y + dy), rng.uniform(0, 1)),
                rng.uniform(0.03, 0.1),
                scale_colour(colour, rng.uniform(0.5, 1.4)),
            )
        )
    return Mesh.build(rods=rods)


def build_parked(rng: Rng) -> Mesh:
    """Build a car or van that is not a target."""
    return build_mesh(sample_appearance(rng, "car" if rng.random() < 0.85 else "van"), 0.0)


def build_parasol(rng: Rng) -> Mesh:
    """Build a beach umbrella with a towel and a person on it."""
    colour, second = sample_colour(rng), sample_colour(rng)
    faces = box((0.9, 1.9, 0.03), second, at=(1.2, 0, 0))
    faces += box((2.4, 2.4, 0.5), colour, at=(0, 0, 1.8), taper=(0.1, 0.1))
    return Mesh.build(faces, [((1.2, -0.5, 0.1), (1.2, 0.4, 0.1), 0.17, SKINS[rng.integers(4)])])


def build_buoy(rng: Rng) -> Mesh:
    """Build a buoy."""
    return Mesh.build(rods=[((0, 0, 0.1), (0, 0, 0.4), rng.uniform(0.2, 0.5), sample_colour(rng))])


def build_jetty(rng: Rng) -> Mesh:
    """Build a pier."""
    wood = sample_wall_colour(rng)
    return Mesh.build(box((rng.uniform(1.5, 3), rng.uniform(10, 30), 0.8), scale_colour(wood, 0.5), wood))


SCENERY_BUILDERS: dict[str, Callable[[Rng], Mesh]] = {
    "house": build_house,
    "canopy": build_canopy,
    "container": build_container,
    "wall": build_wall,
    "tree": build_tree,
    "bush": build_bush,
    "conifer": build_conifer,
    "palm": build_palm,
    "pole": build_pole,
    "rock": build_rock,
    "debris": build_debris,
    "parked": build_parked,
    "parasol": build_parasol,
    "buoy": build_buoy,
    "jetty": build_jetty,
}
