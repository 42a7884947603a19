"""Placement of props: along quays and roads, and in rows of pylons with wires."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge.simulation.camera import Array
from edge.simulation.kinds.catalogue import Setting
from edge.simulation.kinds.marks import Quay
from edge.simulation.kinds.props import (
    build_barrier,
    build_cone,
    build_life_ring,
    build_moored_boat,
    build_post,
    build_pylon,
    pylon_arms,
)
from edge.simulation.layers.wires import Wires
from edge.simulation.materials import Rng
from edge.simulation.mesh import Mesh
from edge.simulation.scene_builder import SceneLayout
from edge.simulation.scenery import SCENERY_BUILDERS

SAG = 0.035
"""Sag of a wire as a fraction of its span."""


@dataclass(frozen=True)
class Prop:
    """A static object that is no target.

    Attributes:
        mesh: Its mesh, in place.
        position: (2,) in metres.
    """

    mesh: Mesh
    position: Array

    @property
    def size(self) -> tuple[float, float]:
        """Return radius and height in metres."""
        low, high = self.mesh.bounds()
        return float(np.max(high[:2] - low[:2]) / 2), float(high[2])


def placed_prop(mesh: Mesh, position: Array, heading: float) -> Prop:
    """Return a prop at a position (2,) in metres, with a heading in radians."""
    return Prop(mesh.placed(float(position[0]), float(position[1]), heading), position)


def place_props(rng: Rng, layout: SceneLayout, setting: Setting, quays: tuple[Quay, ...]) -> tuple[Prop, ...]:
    """Place the props of a place."""
    props: list[Prop] = []
    for quay in quays:
        props += furnish_quay(rng, quay, setting.is_empty)
    if setting.place in ("harbour", "wake", "surf") and not setting.is_empty:
        props += scatter(rng, layout, SCENERY_BUILDERS["buoy"], int(rng.integers(0, 7)))
    if setting.place == "harbour" and not setting.is_empty:
        props += scatter(rng, layout, build_moored_boat, int(rng.integers(0, 4)))
    if setting.place == "roadworks" or (layout.roads and rng.random() < 0.08):
        props += place_cones(rng, layout)
    return tuple(props)


def furnish_quay(rng: Rng, quay: Quay, empty: bool) -> list[Prop]:
    """Place posts, life rings and boats along a quay."""
    props = []
    length = float(quay.size[1])
    both_sides = rng.random() < 0.5
    gap = rng.uniform(3, 9)
    seed = int(rng.integers(2**31))
    for along in np.arange(-0.48, 0.48, gap / length)[:16]:
        for side in (-0.5, 0.5)[: 1 + both_sides]:
            # Posts of a quay are of one kind.
            post = build_post(np.random.default_rng(seed))
            props.append(placed_prop(post, quay.edge_point(float(along), side * 0.9), quay.angle))
    for _ in range(int(rng.integers(0, 3))):
        at = quay.edge_point(rng.uniform(-0.45, 0.45), rng.uniform(-0.4, 0.4))
        props.append(placed_prop(build_life_ring(rng), at, quay.angle))
    if empty:
        return props
    for along in np.arange(-0.42, 0.42, max(9.0 / length, 0.1)):
        if rng.random() < 0.35:
            side = float(rng.choice([-1.0, 1.0]))
            at = quay.edge_point(float(along), side * (0.5 + 2.4 / float(quay.size[0])))
            turn = quay.angle + float(rng.choice([0, math.pi])) + rng.normal(0, 0.06)
            props.append(placed_prop(build_moored_boat(rng), at, turn))
    return props


def scatter(rng: Rng, layout: SceneLayout, build: Callable[[Rng], Mesh], count: int) -> list[Prop]:
    """Place objects at random around the middle of the view."""
    centre = layout.world_m / 2
    return [
        placed_prop(
            build(rng),
            centre + rng.normal(0, 0.5 * layout.view_m, 2),
            float(rng.uniform(0, 2 * math.pi)),
        )
        for _ in range(count)
    ]


def place_cones(rng: Rng, layout: SceneLayout) -> list[Prop]:
    """Place rows of cones and barriers on a road, or a few anywhere."""
    if not layout.roads:
        return scatter(rng, layout, build_cone, int(rng.integers(2, 9)))
    road, props = layout.roads[0], []
    for _ in range(int(rng.integers(1, 4))):
        start = layout.world_m / 2 + rng.normal(0, 0.3) * layout.view_m
        aside, taper = rng.uniform(-0.55, 0.55) * road.width_m, rng.normal(0, 0.06)
        gap = rng.uniform(1.5, 8)
        build = build_cone if rng.random() < 0.75 else build_barrier
        for k in range(int(rng.integers(2, 14))):
            point = np.array(road.point(start + gap * k, aside + taper * gap * k), dtype=float)
            props.append(placed_prop(build(rng), point, float(rng.normal(0, 0.1))))
    return props


def sample_wires(rng: Rng, layout: SceneLayout, height_m: float) -> tuple[tuple[Prop, ...], Wires]:
    """Sample a row of pylons across the world, with wires from each to the next.

    Args:
        rng: Random numbers.
        layout: Site and scale.
        height_m: Height of the camera, which limits the height of the pylons.
    """
    world_m = layout.world_m
    high = float(np.clip(height_m * rng.uniform(0.25, 0.7), 4.0, 38.0))
    steel = bool(high > 12)
    count = max(round(world_m / (high * rng.uniform(1.8, 5.0))), 2)
    span = world_m / count
    along_x = bool(rng.random() < 0.5)
    aside = world_m / 2 + layout.view_m * rng.normal(0, 0.2)
    heading = math.pi / 2 if along_x else 0.0
    mesh = build_pylon(rng, high, steel)
    arms = pylon_arms(high, steel)
    props, lines, anchors = [], [], []
    fraction = np.linspace(0, 1, 9)
    for k in range(count):
        along = (k + 0.5) * span
        position = np.array([along, aside] if along_x else [aside, along])
        props.append(placed_prop(mesh, position, heading))
        for arm in arms:
            # A heading of 90 degrees turns the arm's +x to -y.
            y = along + span * fraction
            z = arm[2] - 4 * SAG * span * fraction * (1 - fraction)
            x = np.full(9, aside + (-arm[0] if along_x else arm[0]))
            lines.append(np.column_stack([y, x, z] if along_x else [x, y, z]))
            anchors.append(lines[-1][4, :2])
    grey = float(rng.choice([40.0, 70.0, 190.0]))
    return tuple(props), Wires(np.array(lines), np.array(anchors), world_m, (grey, grey, grey))
