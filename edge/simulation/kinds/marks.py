"""Marks painted on the ground: quays, road works, tracks, distant houses, foam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge.simulation.actors import sample_colour
from edge.simulation.camera import Array
from edge.simulation.kinds.props import WHITE, WOOD
from edge.simulation.materials import MATERIALS, Image, Rng
from edge.simulation.scene_builder import SceneLayout, is_on_road
from edge.simulation.terrain import Canvas
from edge.simulation.trajectories import Road

TAR: tuple[float, float, float] = (42.0, 42.0, 44.0)


@dataclass(frozen=True)
class Quay:
    """A rectangular pier on the water.

    Attributes:
        centre: (2,) in metres.
        size: (2,), width and length in metres.
        angle: Clockwise rotation in radians; at 0, the length points north.
        is_pontoon: A narrow deck of wood rather than a wall of concrete.
    """

    centre: Array
    size: Array
    angle: float
    is_pontoon: bool

    def edge_point(self, along: float, side: float) -> Array:
        """Return a point (2,) of the edge.

        Args:
            along: Position along the length, -0.5 to 0.5.
            side: -0.5 for one edge and 0.5 for the other; beyond that outside.
        """
        c, s = math.cos(self.angle), math.sin(self.angle)
        local = np.array([side, along]) * self.size
        return np.asarray(self.centre + local @ np.array([[c, -s], [s, c]]))


def sample_quays(rng: Rng, layout: SceneLayout) -> tuple[Quay, ...]:
    """Sample piers around the middle of the view."""
    centre, view_m = layout.world_m / 2, layout.view_m
    base = rng.uniform(0, math.pi)
    quays = []
    for _ in range(int(rng.integers(1, 5))):
        is_pontoon = bool(rng.random() < 0.5)
        width = rng.uniform(1.5, 3.5) if is_pontoon else rng.uniform(5, 18)
        length = view_m * rng.uniform(0.3, 1.2)
        away = rng.uniform(0, 2 * math.pi)
        middle = centre + view_m * rng.uniform(0.25, 0.75) * np.array([math.cos(away), math.sin(away)])
        angle = base + rng.choice([0, math.pi / 2]) + rng.normal(0, 0.03)
        quays.append(Quay(middle, np.array([width, length]), float(angle), is_pontoon))
    return tuple(quays)


def paint_quays(rng: Rng, canvas: Canvas, water: Canvas, quays: tuple[Quay, ...]) -> None:
    """Paint quays with their walls, slabs and stains, and take them out of the water."""
    for quay in quays:
        grey = rng.uniform(0.7, 1.25) * np.array(MATERIALS["concrete"][1])
        deck = np.array(WOOD) * rng.uniform(0.8, 1.8) if quay.is_pontoon else grey
        # `Canvas` turns in the other sense than headings do.
        angle = -quay.angle
        canvas.fill_rectangle(quay.centre, quay.size + 1.2, angle, (30.0, 32.0, 28.0))
        canvas.fill_rectangle(quay.centre, quay.size, angle, tuple(np.clip(deck * 1.2, 0, 250)))
        canvas.fill_rectangle(quay.centre, quay.size - 0.5, angle, tuple(np.clip(deck, 0, 250)))
        water.fill_rectangle(quay.centre, quay.size + 1.2, angle, (0.0, 0.0, 0.0))
        joints = int(quay.size[1] / (3.0 if quay.is_pontoon else 8.0))
        for k in range(min(joints, 40)):
            at = quay.edge_point((k + 0.5) / joints - 0.5, 0.0)
            canvas.fill_rectangle(at, np.array([quay.size[0] - 0.5, 0.12]), angle, tuple(deck * 0.75))
        for _ in range(int(rng.integers(0, 8))):
            at = quay.edge_point(rng.uniform(-0.45, 0.45), rng.uniform(-0.3, 0.3))
            spot = np.minimum(rng.uniform(0.4, 2.5, 2), 0.5 * quay.size[0])
            canvas.fill_rectangle(at, spot, rng.uniform(0, 3), tuple(deck * rng.uniform(0.5, 1.2)))


def paint_road_marks(rng: Rng, canvas: Canvas, roads: tuple[Road, ...]) -> None:
    """Paint manholes, patches of tar, skid marks, arrows and crossings."""
    for road in roads:
        for _ in range(int(rng.integers(2, 9))):
            along, aside = rng.uniform(0, road.world_m), rng.uniform(-0.4, 0.4) * road.width_m
            at = np.array(road.point(along, aside), dtype=float)
            _paint_disc(canvas, at, rng.uniform(0.3, 0.5), (50.0, 50.0, 52.0))
            _paint_disc(canvas, at, 0.24, (80.0, 82.0, 85.0))
        for _ in range(int(rng.integers(0, 9))):
            along, aside = rng.uniform(0, road.world_m), rng.uniform(-0.35, 0.35) * road.width_m
            at = np.array(road.point(along, aside), dtype=float)
            size = rng.uniform(0.8, 6.0, 2)
            tone = TAR if rng.random() < 0.7 else (130.0, 132.0, 135.0)
            canvas.fill_rectangle(at, size, 0.0, tone)
        for _ in range(int(rng.integers(0, 6))):
            ahead = rng.uniform(0, road.world_m) + np.linspace(0, rng.uniform(8, 40), 8)
            lane, turn = rng.uniform(-0.3, 0.3) * road.width_m, rng.normal(0, 0.6)
            for track in (-0.75, 0.75):
                bends = lane + track + turn * np.linspace(0, 1, 8) ** 2
                path = [road.point(float(a), float(b)) for a, b in zip(ahead, bends, strict=True)]
                canvas.draw_line(np.array(path, dtype=float), 0.22, TAR)
        for _ in range(int(rng.integers(0, 4))):
            _paint_arrow(rng, canvas, road)
        if rng.random() < 0.5:
            start = rng.uniform(0, road.world_m)
            for k in np.arange(-road.width_m / 2 + 0.5, road.width_m / 2 - 0.3, 1.0):
                ends = np.column_stack(road.point(np.array([start, start + 3.5]), float(k)))
                canvas.draw_line(ends, 0.5, WHITE)


def _paint_disc(canvas: Canvas, centre: Array, radius: float, colour: tuple[float, float, float]) -> None:
    angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    canvas.fill_polygon(centre + radius * np.column_stack([np.cos(angle), np.sin(angle)]), colour)


def _paint_arrow(rng: Rng, canvas: Canvas, road: Road) -> None:
    along = rng.uniform(0, road.world_m)
    aside = float(rng.choice([-0.25, 0.25])) * road.width_m
    shaft = np.column_stack(road.point(np.array([along, along + 3.0]), aside))
    canvas.draw_line(shaft, 0.2, WHITE)
    head = [(along + 3.0, aside - 0.5), (along + 3.0, aside + 0.5), (along + 4.5, aside)]
    canvas.fill_polygon(np.array([road.point(a, b) for a, b in head], dtype=float), WHITE)


def paint_houses(rng: Rng, canvas: Canvas, roads: tuple[Road, ...], house_m: float) -> None:
    """Paint many small roofs with their shadows and yards, as of a town seen from far away.

    Args:
        rng: Random numbers.
        canvas: The ground.
        roads: Roads that stay free.
        house_m: Usual width of a house in metres.
    """
    pitch = max(2.4 * house_m, canvas.world_m / 45)
    n = max(int(canvas.world_m / pitch), 2)
    pale = np.array([200.0, 215, 228]) * rng.uniform(0.7, 1.1)
    yard = pale * rng.uniform(0.6, 0.85)
    density, turn = rng.uniform(0.25, 0.7), rng.normal(0, 0.1)
    patches = rng.random((5, 5)) < density + 0.15
    for i in range(n):
        for j in range(n):
            if not patches[5 * i // n, 5 * j // n] or rng.random() > 0.75:
                continue
            at = (np.array([i, j]) + rng.uniform(0.25, 0.75, 2)) * canvas.world_m / n
            if any(is_on_road(road, at[0], at[1], house_m) for road in roads):
                continue
            size = house_m * rng.uniform(0.5, 1.5, 2)
            roof = pale * rng.uniform(0.6, 1.15) if rng.random() < 0.85 else np.array(sample_colour(rng))
            if rng.random() < 0.4:
                canvas.fill_rectangle(at, size * rng.uniform(1.3, 1.9), turn, tuple(yard))
            canvas.fill_rectangle(at + 0.2 * house_m, size, turn, (58.0, 60.0, 65.0))
            canvas.fill_rectangle(at, size, turn, tuple(np.clip(roof, 10, 250)))
            if rng.random() < 0.4:
                green = np.array([45.0, 75, 55]) * rng.uniform(0.6, 1.4)
                spot = at + rng.uniform(-1, 1, 2) * house_m
                canvas.fill_blob(rng, spot, 0.3 * house_m, tuple(green))


def paint_tracks(rng: Rng, canvas: Canvas, base: str) -> None:
    """Paint the tracks of machines and furrows: many thin lines side by side."""
    colour = np.array(MATERIALS[base][1])
    for _ in range(int(rng.integers(1, 4))):
        start = rng.uniform(0, canvas.world_m, 2)
        angle, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.25)
        along = np.linspace(-0.5, 0.5, 14) * canvas.world_m * rng.uniform(0.3, 1.0)
        headings = angle + bend * np.linspace(-1, 1, 14)
        path = start + along[:, None] * np.column_stack([np.cos(headings), np.sin(headings)])
        side = np.array([-math.sin(angle), math.cos(angle)])
        gap = canvas.world_m * rng.uniform(0.004, 0.015)
        for k in range(int(rng.integers(2, 16))):
            shade = colour * (0.84 if k % 2 else 1.12) * rng.uniform(0.9, 1.1)
            canvas.draw_line(path + side * gap * k, gap * 0.35, tuple(np.clip(shade, 0, 250)))


def as_image(mask: Image) -> Image:
    """Return a mask (H, W) as an image (H, W, 3) for a `Canvas`."""
    return np.ascontiguousarray(np.repeat(mask[..., None], 3, axis=2))
