"""Texture of the ground: a square that repeats without end in both directions.

The square is `world_m` metres wide and is painted once per scene. Colours come from colour tables over smooth
periodic noise; everything drawn on it wraps around at the edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.actors import sample_colour
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
from edge.simulation.trajectories import Road

CITY_BLOCKS = 5
"""City blocks along a side of the world; a dense city has three times as many."""


@dataclass(frozen=True)
class Ground:
    """The painted square with reduced copies of it.

    Attributes:
        levels: (T, T, 3), (T/2, T/2, 3), and so on.
        world_m: Width of the square in metres.
        water: (T/2, T/2), 255 on water; None if there is no water.
        waves: (512, 512), periodic; 128 is calm.
        wave_tile_m: Width of the square of waves in metres.
    """

    levels: tuple[Image, ...]
    world_m: float
    water: Image | None
    waves: Image
    wave_tile_m: float

    def colour_at(self, x: float, y: float) -> Array:
        """Return the mean colour (3,), BGR, around a point in metres."""
        level = self.levels[-2]
        size = level.shape[0]
        row, column = int(y / self.world_m * size) % size, int(x / self.world_m * size) % size
        return np.asarray(level[row, column], np.float64)


class Canvas:
    """Drawing surface in metres, on which shapes wrap around at the edges.

    Args:
        image: (T, T, 3), drawn on in place.
        world_m: Width of the image in metres.
    """

    def __init__(self, image: Image, world_m: float) -> None:
        self.image = image
        self.world_m = world_m
        self.scale = image.shape[0] / world_m

    def fill_polygon(self, points: Array, colour: Colour) -> None:
        """Fill a polygon (n, 2) in metres."""
        low, high = points.min(0), points.max(0)
        first = np.floor(low / self.world_m).astype(int)
        last = np.floor(high / self.world_m).astype(int)
        for i in range(first[0], last[0] + 1):
            for j in range(first[1], last[1] + 1):
                moved = to_fixed_point((points - [i * self.world_m, j * self.world_m]) * self.scale)
                cv2.fillPoly(self.image, [moved], colour, cv2.LINE_AA, FIXED_POINT_BITS)

    def fill_convex(self, polygons: Array, grey: float) -> None:
        """Fill many convex polygons (N, n, 2) in metres with one grey value."""
        low, high = polygons.min(1), polygons.max(1)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                shift = np.array([i, j]) * self.world_m
                overlaps = np.all((high + shift > 0) & (low + shift < self.world_m), axis=1)
                for polygon in to_fixed_point((polygons[overlaps] + shift) * self.scale):
                    cv2.fillConvexPoly(self.image, polygon, grey, cv2.LINE_AA, FIXED_POINT_BITS)

    def draw_line(self, points: Array, width_m: float, colour: Colour) -> None:
        """Draw a line through points (n, 2) in metres."""
        direction = np.gradient(points, axis=0)
        side = np.column_stack([-direction[:, 1], direction[:, 0]])
        side *= 0.5 * width_m / (np.linalg.norm(side, axis=1, keepdims=True) + 1e-9)
        self.fill_polygon(np.concatenate([points + side, (points - side)[::-1]]), colour)

    def fill_rectangle(self, centre: Array, size: Array, angle: float, colour: Colour) -> None:
        """Fill a rotated rectangle."""
        corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size
        c, s = math.cos(angle), math.sin(angle)
        self.fill_polygon(centre + corners @ np.array([[c, s], [-s, c]]), colour)

    def fill_blob(self, rng: Rng, centre: Array, radius: float, colour: Colour) -> None:
        """Fill a round spot with an irregular edge."""
        angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        reach = radius * rng.uniform(0.6, 1.3, 14)
        spots = np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None]
        self.fill_polygon(centre + spots, colour)


@dataclass(frozen=True)
class GroundPlan:
    """What to paint on the ground.

    Attributes:
        site: Kind of place.
        base_material: Material of most of the ground.
        world_m: Width of the world in metres.
        roads: Roads of the site.
        shore: Shore of a coast.
        texture_size: Side of the texture in pixels.
        wave_tile_m: Width of the square of waves in metres.
    """

    site: str
    base_material: str
    world_m: float
    roads: tuple[Road, ...]
    shore: Shore | None
    texture_size: int
    wave_tile_m: float


def paint_ground(rng: Rng, plan: GroundPlan) -> tuple[Image, Image | None]:
    """Return the texture (size, size, 3) and the water mask of a site."""
    site, base, size = plan.site, plan.base_material, plan.texture_size
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
    canvas = Canvas(image, plan.world_m)
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
    for road in plan.roads:
        draw_road(rng, canvas, road)
    if plan.shore is not None:
        if rng.random() < 0.5:
            draw_settlement(rng, canvas)
        image, water = draw_water(rng, canvas.image, plan.shore)
    if site == "sea" and rng.random() < 0.4:
        draw_foam_veins(rng, image, size)
    modulate_brightness(rng, image, 6 if rng.random() < 0.5 else 5, 0.02 + 0.3 * rng.random() ** 3)
    return image, water


@dataclass(frozen=True)
class Shore:
    """Border between land and water: water is where a coarse noise exceeds a threshold.

    Attributes:
        noise: (1024, 1024), periodic.
        threshold: Value of the noise at the border.
        world_m: Width of the world in metres.
    """

    noise: Image
    threshold: float
    world_m: float

    def is_water(self, x: float, y: float) -> bool:
        """Return whether a point in metres is under water."""
        row, column = (int(v / self.world_m * BANK_SIZE) % BANK_SIZE for v in (y, x))
        return bool(self.noise[row, column] > self.threshold)


def sample_shore(rng: Rng, world_m: float) -> Shore:
    """Sample a shore; the centre of the world is just under water."""
    noise = sample_noise(rng, int(rng.integers(0, 2)), BANK_SIZE)
    centre = float(noise[BANK_SIZE // 2, BANK_SIZE // 2])
    return Shore(noise, min(centre - rng.uniform(2, 30), 200.0), world_m)


def draw_water(rng: Rng, image: Image, shore: Shore) -> tuple[Image, Image]:
    """Return the image with water and a light or dark beach, and the water mask."""
    size = image.shape[0]
    noise = (
        shore.noise
        if size == BANK_SIZE
        else np.asarray(cv2.resize(shore.noise, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    )
    level = np.arange(256) - shore.threshold
    beach = np.clip(255 - np.abs(level + 4) * rng.uniform(12, 60), 0, 255).astype(np.uint8)
    sand = np.empty_like(image)
    sand[:] = np.array(sample_colour(rng) if rng.random() < 0.3 else (190, 215, 230))
    image = blend(image, sand, np.asarray(cv2.LUT(noise, beach), np.uint8))
    mask = np.asarray(cv2.LUT(noise, np.clip(level * 60 + 128, 0, 255).astype(np.uint8)), np.uint8)
    sea = fill_material(rng, str(rng.choice(WATER_MATERIALS)), size, 1)
    return blend(image, sea, mask), mask


def draw_foam_veins(rng: Rng, image: Image, size: int) -> None:
    """Draw old foam: thin bright nets on the water."""
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
    """Return a random point (2,) in metres."""
    return np.asarray(rng.uniform(0, canvas.world_m, 2))


def draw_fields(rng: Rng, canvas: Canvas) -> None:
    """Draw fields: large tinted rectangles, some with rows of crops."""
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
    """Draw a grid of streets with yards and flat roofs between them."""
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
    """Draw many small roofs close together, as of a town seen from far away."""
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
    """Draw a grid of joints, as of paving or concrete slabs."""
    n = int(rng.integers(4, 40))
    cell = canvas.world_m / n
    colour = np.array(MATERIALS["concrete"][1]) * rng.uniform(0.4, 1.3)
    tint = tuple(colour * (1 + rng.normal(0, 0.08, 3)))
    joint_width = cell * rng.uniform(0.02, 0.08)
    if n < 20:
        for _ in range(n):
            centre = rng.integers(0, n, 2).astype(float) * cell + cell / 2
            colour_below = canvas.image[int(centre[1] * canvas.scale), int(centre[0] * canvas.scale)].astype(
                float
            )
            canvas.fill_rectangle(
                centre, np.array([cell, cell]), 0, tuple(colour_below * rng.uniform(0.85, 1.1))
            )
    for i in range(n):
        centre = np.array([i * cell, canvas.world_m / 2])
        size = np.array([joint_width, canvas.world_m])
        canvas.fill_rectangle(centre, size, 0, tint)
        if n % 3:
            canvas.fill_rectangle(centre[::-1], size[::-1], 0, tint)


def draw_parking_stalls(rng: Rng, canvas: Canvas) -> None:
    """Draw rows of parking stalls."""
    white = (215.0, 220.0, 222.0) if rng.random() < 0.8 else (60.0, 190.0, 225.0)
    pitch, n = 18.0, int(canvas.world_m / 18.0)
    for row in range(max(n, 1)):
        y = row * pitch
        canvas.fill_rectangle(np.array([canvas.world_m / 2, y]), np.array([canvas.world_m, 0.15]), 0, white)
        for k in range(min(int(canvas.world_m / 2.7), 60)):
            canvas.fill_rectangle(np.array([k * 2.7, y]), np.array([0.13, 10.0]), 0, white)


def draw_markings(rng: Rng, canvas: Canvas) -> None:
    """Draw the markings of a pitch, court or runway: lines, circles and bars."""
    centre, turn = random_point(rng, canvas), rng.uniform(0, math.pi)
    paint = sample_colour(rng) if rng.random() < 0.3 else (225.0, 230.0, 232.0)
    size = canvas.world_m * rng.uniform(0.12, 0.5) * np.array([1, rng.uniform(0.4, 1.0)])
    line_width = float(size[0]) * rng.uniform(0.008, 0.03)
    c, s = math.cos(turn), math.sin(turn)
    rotation = np.array([[c, s], [-s, c]])
    if rng.random() < 0.5:
        canvas.fill_rectangle(
            centre,
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
        ends = np.array([a, b]) * size / 2 @ rotation + centre
        canvas.draw_line(ends, line_width, paint)
    angle = np.linspace(0, 2 * math.pi, 33)
    circle = np.column_stack([np.cos(angle), np.sin(angle)]) * size.min() * rng.uniform(0.1, 0.3)
    canvas.draw_line(circle + centre, line_width, paint)
    for _ in range(int(rng.integers(0, 8))):
        at = rng.uniform(-0.45, 0.45, 2) * size @ rotation + centre
        canvas.fill_rectangle(at, size * rng.uniform(0.01, 0.12, 2), turn, paint)


def draw_stains(rng: Rng, canvas: Canvas, base: str) -> None:
    """Draw spots, cracks, tracks and patches, which are distractors."""
    world_m = canvas.world_m
    base_colour = np.array(MATERIALS[base][1])
    for _ in range(int(rng.integers(0, 60))):
        radius = world_m * math.exp(rng.uniform(math.log(0.0015), math.log(0.012)))
        colour = base_colour * rng.uniform(0.45, 1.35) if rng.random() < 0.7 else sample_colour(rng)
        canvas.fill_blob(rng, random_point(rng, canvas), radius, tuple(np.clip(colour, 0, 250)))
    for _ in range(int(rng.integers(0, 14))):
        steps = rng.normal(0, 1, (12, 2)) + rng.normal(0, 1.5, 2)
        line = random_point(rng, canvas) + np.cumsum(steps, 0) * world_m * rng.uniform(0.002, 0.012)
        colour = base_colour * rng.choice([0.5, 0.7, 1.25, 1.5])
        canvas.draw_line(line, world_m * rng.uniform(0.0006, 0.004), tuple(np.clip(colour, 0, 250)))
    for _ in range(int(rng.integers(0, 10))):
        canvas.fill_rectangle(
            random_point(rng, canvas),
            world_m * rng.uniform(0.003, 0.03, 2),
            rng.uniform(0, 3),
            sample_colour(rng),
        )


def draw_road(rng: Rng, canvas: Canvas, road: Road) -> None:
    """Draw a road with verges, kerbs and lane markings."""
    along_m = np.linspace(0, canvas.world_m, 49)

    def fill_band(aside_m: float, width_m: float, colour: Colour) -> None:
        """Fill a stripe along the road."""
        side = road.point(along_m, aside_m - width_m / 2), road.point(along_m, aside_m + width_m / 2)
        canvas.fill_polygon(
            np.concatenate([np.column_stack(side[0]), np.column_stack(side[1])[::-1]]), colour
        )

    is_dirt = rng.random() < 0.2
    name = "dirt" if is_dirt else "asphalt"
    surface_colour = tuple(np.array(MATERIALS[name][1]) * rng.uniform(0.65, 1.4))
    half = road.width_m / 2
    if rng.random() < 0.6:
        verge = MATERIALS[str(rng.choice((*HARD_MATERIALS, "dirt", "grass")))][1]
        verge_width = rng.uniform(1.5, 6)
        fill_band(half + verge_width / 2, verge_width, verge)
        fill_band(-half - verge_width / 2, verge_width, verge)
    fill_band(0, road.width_m, surface_colour)
    if is_dirt:
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


Finish = Callable[[Image, Image | None], tuple[Image, Image | None]]
"""Paints more on the texture and the water mask of a ground, before the shadows."""


def build_ground(
    rng: Rng,
    plan: GroundPlan,
    shadows: tuple[Array, ...],
    shadow_strength: float,
    finish: Finish | None = None,
) -> Ground:
    """Paint the ground and the shadows of the scenery, and reduce it to smaller levels.

    Args:
        rng: Random numbers.
        plan: What to paint.
        shadows: Groups of polygons (N, n, 2) in metres.
        shadow_strength: 0 to 1.
        finish: Paints more on the ground.
    """
    size = plan.texture_size
    image, water = paint_ground(rng, plan)
    if finish is not None:
        image, water = finish(image, water)
    if shadows:
        shade = Canvas(np.full((size // 2, size // 2), 255, np.uint8), plan.world_m)
        for polygons in shadows:
            shade.fill_convex(polygons, 255 * (1 - shadow_strength))
        full = cv2.resize(shade.image, (size, size), interpolation=cv2.INTER_LINEAR)
        image = np.asarray(cv2.multiply(image, cv2.merge([full, full, full]), scale=1 / 255), np.uint8)
    levels = reduce_texture(image)
    if water is not None:
        water = np.asarray(cv2.resize(water, (size // 2, size // 2)), np.uint8)
    waves = sample_noise(rng, int(rng.integers(4, 6)), 512)
    return Ground(levels, plan.world_m, water, waves, plan.wave_tile_m)


def reduce_texture(image: Image) -> tuple[Image, ...]:
    """Return the texture (T, T, 3), and copies of it reduced to half, a quarter, and so on."""
    levels = [image]
    while levels[-1].shape[0] > 16:
        half = levels[-1].shape[0] // 2
        levels.append(
            np.asarray(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA), np.uint8)
        )
    return tuple(levels)
