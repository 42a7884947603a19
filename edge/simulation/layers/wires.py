"""Overhead wires between pylons."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from edge.simulation.camera import Array
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import nearest_copy
from edge.simulation.materials import Image
from edge.simulation.mesh import FIXED_POINT_BITS, Colour, to_fixed_point

MIN_DEPTH_M = 1.0


@dataclass(frozen=True)
class Wires:
    """Thin lines in front of everything.

    Attributes:
        lines: (N, n, 3), points of each wire in metres.
        anchors: (N, 2), a point of each wire that chooses the nearest copy of the world.
        world_m: Width of the world in metres.
        colour: BGR.
    """

    lines: Array
    anchors: Array
    world_m: float
    colour: Colour

    def draw(self, image: Image, view: View) -> None:
        """Draw the wires."""
        moved = self.lines.copy()
        moved[..., :2] += nearest_copy(self.world_m, view.camera, self.anchors)[:, None]
        points, depth = view.camera.project(moved)
        thick = max(image.shape[1] // 400, 1)
        for line, near in zip(to_fixed_point(points), depth > MIN_DEPTH_M, strict=True):
            if near.sum() > 1:
                cv2.polylines(image, [line[near]], False, self.colour, thick, cv2.LINE_AA, FIXED_POINT_BITS)
