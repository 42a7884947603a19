"""The ground: a square of painted earth, repeated without end in both directions.

The square is `world_m` metres wide and is painted once per scene; colours come from ramps over
smooth periodic noise, and everything drawn on it wraps round at the edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.actors import Road, sample_colour
from edge.simulation.camera import Array
from edge.simulation.materials import (
    BANK_SIZE,
    HARD_MATERIALS,
    MATERIALS,
    SOFT_MATERIALS,
    WATER_MATERIALS,
    Image,
    Rng,
    blend,
    blend_patches,
    fill_material,
    modulate_brightness,
    sample_noise,
)
from edge.simulation.mesh import FIXED_POINT_BITS, Colour, to_fixed_point

CITY_BLOCKS = 5  # along a side of the square, or three times as many


@dataclass(frozen=True)
class Ground:
    """The painted square and its smaller copies, each half as large as the one before."""

    levels: tuple[Image, ...]  # (T, T, 3), (T/2, T/2, 3), ...
    world_m: float
    water: Image | None  # (T/2, T/2): 255 where water is; None where there is none
    waves: Image  # (512, 512) periodic, 128 is calm
    wave_tile_m: float  # width of the waves' square in metres

    def colour_at(self, x: float, y: float) -> Array:
        """Mean colour (3,) BGR round a place in metres."""
        level = self.levels[-2]
        size = level.shape[0]
        row, column = int(y / self.world_m * size) % size, int(x / self.world_m * size) % size
        return np.asarray(level[row, column], np.float64)


class Canvas:
    """A wrapping drawing board in metres."""

    def __init__(self, image: Image, world_m: float) -> None:
        """Over an image (T, T, 3) that stands for a square of `world_m` metres."""
        self.image = image
        self.world_m = world_m
        self.scale = image.shape[0] / world_m

    def fill_polygon(self, points: Array, colour: Colour) -> None:
        """A filled polygon (n, 2) in metres."""
        low, high = points.min(0), points.max(0)
        first = np.floor(low / self.world_m).astype(int)
        last = np.floor(high / self.world_m).astype(int)
        for i in range(first[0], last[0] + 1):
            for j in range(first[1], last[1] + 1):
                moved = to_fixed_point((points - [i * self.world_m, j * self.world_m]) * self.scale)
                cv2.fillPoly(self.image, [moved], colour, cv2.LINE_AA, FIXED_POINT_BITS)

    def fill_convex(self, polygons: Array, tone: float) -> None:
        """Many filled convex polygons (N, n, 2) in metres, in one tone."""
        low, high = polygons.min(1), polygons.max(1)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                shift = np.array([i, j]) * self.world_m
                here = np.all((high + shift > 0) & (low + shift < self.world_m), axis=1)
                for polygon in to_fixed_point((polygons[here] + shift) * self.scale):
                    cv2.fillConvexPoly(self.image, polygon, tone, cv2.LINE_AA, FIXED_POINT_BITS)

    def draw_line(self, points: Array, width_m: float, colour: Colour) -> None:
        """A line through (n, 2) metres."""
        way = np.gradient(points, axis=0)
        side = np.column_stack([-way[:, 1], way[:, 0]])
        side *= 0.5 * width_m / (np.linalg.norm(side, axis=1, keepdims=True) + 1e-9)
        self.fill_polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)

    def fill_rectangle(self, centre: Array, size: Array, angle: float, colour: Colour) -> None:
        """A turned rectangle."""
        corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size
        c, s = math.cos(angle), math.sin(angle)
        self.fill_polygon(centre + corners @ np.array([[c, s], [-s, c]]), colour)

    def fill_blob(self, rng: Rng, centre: Array, radius: float, colour: Colour) -> None:
        """A round spot with an uneven edge."""
        angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        reach = radius * rng.uniform(0.6, 1.3, 14)
        spots = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None]
        self.fill_polygon(centre + spots, colour)


def paint_ground(
    rng: Rng,
    site: str,
    base: str,
    world_m: float,
    roads: tuple[Road, ...],
    shore: Shore | None,
    size: int,
) -> tuple[Image, Image | None]:
    """Texture (size, size, 3) and water mask of a lot: what kind of place it is."""
    image = fill_material(rng, base, size, int(rng.integers(1, 5)))
    water: Image | None = None
    if rng.random() < 0.75:
        other = str(rng.choice(WATER_MATERIALS if base in WATER_MATERIALS else SOFT_MATERIALS))
        image = blend_patches(
            rng,
            image,
            fill_material(rng, other, size, 4),
            int(rng.integers(0, 3)),
            soft=base in WATER_MATERIALS or rng.random() < 0.7,
        )
    if base in WATER_MATERIALS:
        water = np.full((size, size), 255, np.uint8)
    canvas = Canvas(image, world_m)
    if site == "fields":
        draw_fields(rng, canvas)
    if site == "city":
        draw_city_blocks(rng, canvas)
    if site in ("plaza", "carpark", "court") or (site == "street" and rng.random() < 0.2):
        draw_paving(rng, canvas)
    if site == "carpark":
        draw_parking_stalls(rng, canvas)
    if site == "court" or (site == "meadow" and rng.random() < 0.25):
        draw_markings(rng, canvas)
    if site not in ("sea", "coast") and rng.random() < 0.75:
        draw_stains(rng, canvas, base)
    for road in roads:
        draw_road(rng, canvas, road)
    if shore is not None:
        if rng.random() < 0.5:
            draw_settlement(rng, canvas)
        image, water = draw_water(rng, canvas.image, shore)
    if site == "sea" and rng.random() < 0.4:
        draw_foam_veins(rng, image, size)
    modulate_brightness(rng, image, 6 if rng.random() < 0.5 else 5, 0.02 + 0.3 * rng.random() ** 3)
    return image, water


@dataclass(frozen=True)
class Shore:
    """Where land ends: the water is where a broad noise is above an edge."""

    tone: Image  # (1024, 1024)
    edge: float
    world_m: float

    def is_water(self, x: float, y: float) -> bool:
        """Whether a place in metres is under water."""
        row, column = (int(v / self.world_m * BANK_SIZE) % BANK_SIZE for v in (y, x))
        return bool(self.tone[row, column] > self.edge)


def sample_shore(rng: Rng, world_m: float) -> Shore:
    """A shore that leaves the middle of the world just under water."""
    tone = sample_noise(rng, int(rng.integers(0, 2)), BANK_SIZE)
    middle = float(tone[BANK_SIZE // 2, BANK_SIZE // 2])
    return Shore(tone, min(middle - rng.uniform(2, 30), 200.0), world_m)


def draw_water(rng: Rng, image: Image, shore: Shore) -> tuple[Image, Image]:
    """Water where the shore says so, with a pale or dark beach."""
    size = image.shape[0]
    tone = (
        shore.tone
        if size == BANK_SIZE
        else np.asarray(cv2.resize(shore.tone, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    )
    reach = np.arange(256) - shore.edge
    beach = np.clip(255 - np.abs(reach + 4) * rng.uniform(12, 60), 0, 255).astype(np.uint8)
    sand = np.empty_like(image)
    sand[:] = np.array(sample_colour(rng) if rng.random() < 0.3 else (190, 215, 230))
    image = blend(image, sand, np.asarray(cv2.LUT(tone, beach), np.uint8))
    mask = np.asarray(cv2.LUT(tone, np.clip(reach * 60 + 128, 0, 255).astype(np.uint8)), np.uint8)
    sea = fill_material(rng, str(rng.choice(WATER_MATERIALS)), size, 1)
    return blend(image, sea, mask), mask


def draw_foam_veins(rng: Rng, image: Image, size: int) -> None:
    """Old foam: thin pale nets on the water."""
    tone = sample_noise(rng, 3, size)
    table = np.clip(70 - 9 * np.abs(np.arange(256) - 128.0), 0, 255) * rng.uniform(0.6, 2.0)
    veins = cv2.LUT(tone, np.clip(table, 0, 255).astype(np.uint8))
    veins = (
        cv2.LUT(sample_noise(rng, 1, size), np.clip((np.arange(256) - 120) * 4, 0, 255).astype(np.uint8))
        // 255
        * veins
    )
    cv2.add(image, cv2.merge([veins, veins, veins]), dst=image)


def random_point(rng: Rng, canvas: Canvas) -> Array:
    """A random place (2,) in metres."""
    return np.asarray(rng.uniform(0, canvas.world_m, 2))


def draw_fields(rng: Rng, canvas: Canvas) -> None:
    """Fields: big tinted rectangles with rows."""
    image, n = canvas.image, int(rng.integers(2, 5))
    cell = canvas.world_m / n
    for i in range(n):
        for j in range(n):
            name = str(rng.choice(SOFT_MATERIALS))
            colour = np.array(MATERIALS[name][1]) * rng.uniform(0.8, 1.1)
            other = colour * rng.uniform(0.8, 1.15)
            middle = np.array([(i + 0.5) * cell, (j + 0.5) * cell])
            canvas.fill_rectangle(middle, np.array([cell, cell]) * 0.98, 0, tuple(colour))
            if rng.random() < 0.6:
                rows, turned = int(rng.integers(5, 18)), rng.random() < 0.5
                for k in range(rows):
                    aside = ((k + 0.5) / rows - 0.5) * cell
                    at = middle + (np.array([aside, 0]) if turned else np.array([0, aside]))
                    long = np.array([cell / rows * 0.4, cell * 0.95])
                    canvas.fill_rectangle(at, long if turned else long[::-1], 0, tuple(other))
    modulate_brightness(rng, image, 2, rng.uniform(0.05, 0.4))


def draw_city_blocks(rng: Rng, canvas: Canvas) -> None:
    """Streets in a grid with yards and flat roofs between."""
    n = CITY_BLOCKS if rng.random() < 0.6 else 3 * CITY_BLOCKS
    cell = canvas.world_m / n
    street = MATERIALS["asphalt"][1]
    for i in range(n):
        middle = np.array([(i + 0.5) * cell, canvas.world_m / 2])
        for at in (middle, middle[::-1]):
            tall = np.array([cell * 0.16, canvas.world_m])
            canvas.fill_rectangle(at, tall if at is middle else tall[::-1], 0, street)
    for i in range(n):
        for j in range(n):
            corner = np.array([i, j]) * cell
            yard = MATERIALS[str(rng.choice((*SOFT_MATERIALS, *HARD_MATERIALS)))][1]
            canvas.fill_rectangle(corner, np.array([cell, cell]) * 0.8, 0, yard)
            for _ in range(int(rng.integers(0, 5))):
                at = corner + rng.uniform(-0.28, 0.28, 2) * cell
                canvas.fill_rectangle(at, rng.uniform(0.1, 0.3, 2) * cell, 0, sample_colour(rng))


def draw_settlement(rng: Rng, canvas: Canvas) -> None:
    """Many small roofs close together, as a town looks from far."""
    wall, n = np.array(MATERIALS["sand"][1]), int(rng.integers(20, 34))
    cell, turn = canvas.world_m / n, rng.uniform(0, math.pi)
    tops = [tuple(wall * rng.uniform(0.5, 1.2)) for _ in range(4)]
    built = rng.random((n, n)) < rng.uniform(0.3, 0.8)
    for i, j in np.argwhere(built):
        at = (np.array([i, j]) + rng.uniform(0.3, 0.7, 2)) * cell
        size = rng.uniform(0.3, 0.7, 2) * cell
        canvas.fill_rectangle(at + 0.12 * cell, size, turn, (40.0, 45.0, 50.0))
        canvas.fill_rectangle(at, size, turn, tops[int(rng.integers(4))])


def draw_paving(rng: Rng, canvas: Canvas) -> None:
    """A grid of joints, as of paving or concrete plates."""
    n = int(rng.integers(4, 40))
    cell = canvas.world_m / n
    colour = np.array(MATERIALS["concrete"][1]) * rng.uniform(0.4, 1.3)
    tint = tuple(colour * (1 + rng.normal(0, 0.08, 3)))
    thick = cell * rng.uniform(0.02, 0.08)
    if n < 20:
        for _ in range(n):
            at = rng.integers(0, n, 2).astype(float) * cell + cell / 2
            under = canvas.image[int(at[1] * canvas.scale), int(at[0] * canvas.scale)].astype(float)
            canvas.fill_rectangle(at, np.array([cell, cell]), 0, tuple(under * rng.uniform(0.85, 1.1)))
    for i in range(n):
        at = np.array([i * cell, canvas.world_m / 2])
        long = np.array([thick, canvas.world_m])
        canvas.fill_rectangle(at, long, 0, tint)
        if n % 3:
            canvas.fill_rectangle(at[::-1], long[::-1], 0, tint)


def draw_parking_stalls(rng: Rng, canvas: Canvas) -> None:
    """Rows of painted parking stalls."""
    white = (215.0, 220.0, 222.0) if rng.random() < 0.8 else (60.0, 190.0, 225.0)
    pitch, n = 18.0, int(canvas.world_m / 18.0)
    for row in range(max(n, 1)):
        y = row * pitch
        canvas.fill_rectangle(np.array([canvas.world_m / 2, y]), np.array([canvas.world_m, 0.15]), 0, white)
        for k in range(min(int(canvas.world_m / 2.7), 60)):
            canvas.fill_rectangle(np.array([k * 2.7, y]), np.array([0.13, 10.0]), 0, white)


def draw_markings(rng: Rng, canvas: Canvas) -> None:
    """A pitch, court or runway: lines, circles, arrows, bars."""
    middle, turn = random_point(rng, canvas), rng.uniform(0, math.pi)
    paint = sample_colour(rng) if rng.random() < 0.3 else (225.0, 230.0, 232.0)
    size = canvas.world_m * rng.uniform(0.12, 0.5) * np.array([1, rng.uniform(0.4, 1.0)])
    thick = float(size[0]) * rng.uniform(0.008, 0.03)
    c, s = math.cos(turn), math.sin(turn)
    way = np.array([[c, s], [-s, c]])
    if rng.random() < 0.5:
        canvas.fill_rectangle(
            middle,
            size,
            turn,
            sample_colour(rng) if rng.random() < 0.5 else MATERIALS[str(rng.choice(HARD_MATERIALS))][1],
        )
    for a, b in (
        ((-1, -1), (1, -1)),
        ((1, -1), (1, 1)),
        ((1, 1), (-1, 1)),
        ((-1, 1), (-1, -1)),
        ((0, -1), (0, 1)),
    ):
        ends = np.array([a, b]) * size / 2 @ way + middle
        canvas.draw_line(ends, thick, paint)
    angle = np.linspace(0, 2 * math.pi, 33)
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * size.min() * rng.uniform(0.1, 0.3)
    canvas.draw_line(circle + middle, thick, paint)
    for _ in range(int(rng.integers(0, 8))):
        at = rng.uniform(-0.45, 0.45, 2) * size @ way + middle
        canvas.fill_rectangle(at, size * rng.uniform(0.01, 0.12, 2), turn, paint)


def draw_stains(rng: Rng, canvas: Canvas, base: str) -> None:
    """Spots, patches, cracks, tracks, holes: things that only look like something."""
    reach = canvas.world_m
    tone = np.array(MATERIALS[base][1])
    for _ in range(int(rng.integers(0, 60))):
        radius = reach * math.exp(rng.uniform(math.log(0.0015), math.log(0.012)))
        colour = tone * rng.uniform(0.45, 1.35) if rng.random() < 0.7 else sample_colour(rng)
        canvas.fill_blob(rng, random_point(rng, canvas), radius, tuple(np.clip(colour, 0, 250)))
    for _ in range(int(rng.integers(0, 14))):
        steps = rng.normal(0, 1, (12, 2)) + rng.normal(0, 1.5, 2)
        line = random_point(rng, canvas) + np.cumsum(steps, 0) * reach * rng.uniform(0.002, 0.012)
        colour = tone * rng.choice([0.5, 0.7, 1.25, 1.5])
        canvas.draw_line(line, reach * rng.uniform(0.0006, 0.004), tuple(np.clip(colour, 0, 250)))
    for _ in range(int(rng.integers(0, 10))):
        canvas.fill_rectangle(
            random_point(rng, canvas),
            reach * rng.uniform(0.003, 0.03, 2),
            rng.uniform(0, 3),
            sample_colour(rng),
        )


def draw_road(rng: Rng, canvas: Canvas, road: Road) -> None:
    """Verge, kerb, asphalt and marks, along the whole road."""
    s = np.linspace(0, canvas.world_m, 49)

    def fill_band(aside: float, width: float, colour: Colour) -> None:
        """A stripe along the road."""
        side = road.point(s, aside - width / 2), road.point(s, aside + width / 2)
        canvas.fill_polygon(
            np.concatenate([np.column_stack(side[0]), np.column_stack(side[1])[::-1]]), colour
        )

    dusty = rng.random() < 0.2
    name = "dirt" if dusty else "asphalt"
    tone = tuple(np.array(MATERIALS[name][1]) * rng.uniform(0.65, 1.4))
    half = road.width_m / 2
    if rng.random() < 0.6:
        verge = MATERIALS[str(rng.choice((*HARD_MATERIALS, "dirt", "grass")))][1]
        wide = rng.uniform(1.5, 6)
        fill_band(half + wide / 2, wide, verge)
        fill_band(-half - wide / 2, wide, verge)
    fill_band(0, road.width_m, tone)
    if dusty:
        return
    white, yellow = (215.0, 218.0, 220.0), (50.0, 175.0, 215.0)
    if rng.random() < 0.5:
        kerb = (170.0, 180.0, 185.0)
        fill_band(half, 0.35, kerb)
        fill_band(-half, 0.35, kerb)
    if rng.random() < 0.7:
        colour = white if rng.random() < 0.6 else yellow
        fill_band(half - 0.5, 0.18, colour)
        fill_band(-half + 0.5, 0.18, colour)
    if rng.random() < 0.25:
        median = str(rng.choice(("brick", "concrete", "grass")))
        fill_band(0, rng.uniform(0.4, 2.5), MATERIALS[median][1])
    elif rng.random() < 0.85:
        dash, gap = rng.uniform(2, 4), rng.uniform(3, 8)
        for start in np.arange(0, canvas.world_m - dash, dash + gap)[:150]:
            ends = np.column_stack(road.point(np.array([start, start + dash]), 0.0))
            canvas.draw_line(ends, 0.2, white)
    if rng.random() < 0.3:
        at = rng.uniform(0, canvas.world_m)
        for k in np.arange(-half + 0.6, half - 0.3, 1.1):
            ends = np.column_stack(road.point(np.array([at, at + 3.0]), float(k)))
            canvas.draw_line(ends, 0.5, white)


def build_ground(
    rng: Rng,
    site: str,
    base: str,
    world_m: float,
    roads: tuple[Road, ...],
    shore: Shore | None,
    size: int,
    shadows: tuple[tuple[Array, ...], float],
    wave_tile_m: float,
) -> Ground:
    """Paint the square, darken the shadows (polygons (N, n, 2) in metres, strength 0..1)."""
    image, water = paint_ground(rng, site, base, world_m, roads, shore, size)
    polygons, strength = shadows
    if polygons:
        shade = Canvas(np.full((size // 2, size // 2), 255, np.uint8), world_m)
        for group in polygons:
            shade.fill_convex(group, 255 * (1 - strength))
        full = cv2.resize(shade.image, (size, size), interpolation=cv2.INTER_LINEAR)
        image = np.asarray(cv2.multiply(image, cv2.merge([full, full, full]), scale=1 / 255), np.uint8)
    levels = [image]
    while levels[-1].shape[0] > 16:
        half = levels[-1].shape[0] // 2
        levels.append(
            np.asarray(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA), np.uint8)
        )
    if water is not None:
        water = np.asarray(cv2.resize(water, (size // 2, size // 2)), np.uint8)
    waves = sample_noise(rng, int(rng.integers(4, 6)), 512)
    return Ground(tuple(levels), world_m, water, waves, wave_tile_m)
