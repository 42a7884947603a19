"""Meshes of flat faces and round rods, and their projection to polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.simulation.camera import NEAR_M, SceneCamera

Array = npt.NDArray[np.float64]
Colour = tuple[float, float, float]
Point = tuple[float, float, float]

FACE_CORNERS = 6
FIXED_POINT_BITS = 4
"""Fractional bits of pixel coordinates when drawing."""
ROD_CORNERS = 10


@dataclass(frozen=True)
class Mesh:
    """Faces and rods in metres, in the order they are drawn, with the foot at the origin.

    A face has six corners, counterclockwise seen from outside; the last corner is repeated if there are
    fewer. A rod is a line segment with round ends; a ball is a rod of length zero.

    Attributes:
        faces: (F, 6, 3).
        face_colours: (F, 3), BGR, 0 to 255.
        rods: (R, 2, 3).
        radii: (R,).
        rod_colours: (R, 3), BGR, 0 to 255.
    """

    faces: Array
    face_colours: Array
    rods: Array
    radii: Array
    rod_colours: Array

    @staticmethod
    def build(
        faces: Sequence[tuple[Array, Colour]] = (),
        rods: Sequence[tuple[Point, Point, float, Colour]] = (),
    ) -> Mesh:
        """Build a mesh.

        Args:
            faces: Corners (n, 3) and colour of each face.
            rods: Two ends, radius and colour of each rod.
        """
        corners = np.zeros((len(faces), FACE_CORNERS, 3))
        for i, (face, _) in enumerate(faces):
            corners[i, : len(face)] = face
            corners[i, len(face) :] = face[-1]
        return Mesh(
            corners,
            np.array([c for _, c in faces], dtype=float).reshape(-1, 3),
            np.array([(a, b) for a, b, _, _ in rods], dtype=float).reshape(-1, 2, 3),
            np.array([r for _, _, r, _ in rods], dtype=float),
            np.array([c for _, _, _, c in rods], dtype=float).reshape(-1, 3),
        )

    def placed(self, x: float, y: float, heading: float) -> Mesh:
        """Return the mesh rotated and moved to (x, y).

        Args:
            x: Metres.
            y: Metres.
            heading: Clockwise rotation in radians; at 0, the mesh's +y points north.
        """
        c, s = math.cos(heading), math.sin(heading)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        shift = np.array([x, y, 0.0])
        return Mesh(
            self.faces @ turn + shift,
            self.face_colours,
            self.rods @ turn + shift,
            self.radii,
            self.rod_colours,
        )

    def translated(self, x: float, y: float) -> Mesh:
        """Return the mesh moved along the ground."""
        shift = np.array([x, y, 0.0])
        return Mesh(self.faces + shift, self.face_colours, self.rods + shift, self.radii, self.rod_colours)

    def bounds(self) -> Array:
        """Return the lowest and the highest corner, (2, 3)."""
        points = np.concatenate([self.faces.reshape(-1, 3), self.rods.reshape(-1, 3)])
        return np.stack([points.min(0), points.max(0)])

    def mean_colour(self) -> Array:
        """Return the mean colour (3,), weighted by area."""
        sides = self.faces[:, 1:3] - self.faces[:, :1]
        areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1)
        lengths = np.linalg.norm(self.rods[:, 1] - self.rods[:, 0], axis=-1)
        weights = np.concatenate([areas, 2 * self.radii * (lengths + 1.6 * self.radii)]) + 1e-9
        colours = np.concatenate([self.face_colours, self.rod_colours])
        return np.asarray((colours * weights[:, None]).sum(0) / weights.sum())


def join_meshes(meshes: Sequence[Mesh]) -> Mesh:
    """Return one mesh of all faces, then all rods."""
    return Mesh(
        np.concatenate([m.faces for m in meshes]),
        np.concatenate([m.face_colours for m in meshes]),
        np.concatenate([m.rods for m in meshes]),
        np.concatenate([m.radii for m in meshes]),
        np.concatenate([m.rod_colours for m in meshes]),
    )


def box(
    size: tuple[float, float, float],
    colour: Colour,
    top: Colour | None = None,
    at: tuple[float, float, float] = (0.0, 0.0, 0.0),
    taper: tuple[float, float] = (1.0, 1.0),
) -> list[tuple[Array, Colour]]:
    """Return the four sides and the top of a box.

    Args:
        size: Extent along x, y and z.
        colour: Of the sides.
        top: Colour of the top; None for the colour of the sides.
        at: Centre of the base.
        taper: Factors of the top's extent along x and y.
    """
    hx, hy, z = size[0] / 2, size[1] / 2, size[2]
    unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    base = np.column_stack([unit * [hx, hy], np.zeros(4)]) + at
    lid = np.column_stack([unit * [hx * taper[0], hy * taper[1]], np.full(4, z)]) + at
    sides = [(np.array([base[i], base[(i + 1) % 4], lid[(i + 1) % 4], lid[i]]), colour) for i in range(4)]
    return [*sides, (lid, top if top is not None else colour)]


@dataclass(frozen=True)
class ProjectedPolygons:
    """Polygons in drawing order.

    Attributes:
        polygons: (n, 2) each, in fixed-point pixels.
        colours: (P, 3), BGR.
        owner: (P,), index of the object that a polygon belongs to.
    """

    polygons: list[npt.NDArray[np.int32]]
    colours: Array
    owner: npt.NDArray[np.int64]


def rod_outlines(camera: SceneCamera, rods: Array, radii: Array) -> tuple[Array, Array]:
    """Project rods (R, 2, 3) to the image.

    Returns:
        Outlines (R, 10, 2) in pixels, and the depths (R,) of the nearer ends.
    """
    ends, depth = camera.project(rods)
    radius = radii[:, None] * camera.focal / np.maximum(depth, NEAR_M)
    direction = ends[:, 1] - ends[:, 0]
    angle = np.arctan2(direction[:, 1], direction[:, 0])
    return flat_rod_outlines(ends, angle, radius), depth.min(-1)


def project_polygons(
    camera: SceneCamera,
    mesh: Mesh,
    face_owner: npt.NDArray[np.int64],
    rod_owner: npt.NDArray[np.int64],
    sun: Array,
    ambient: float,
) -> ProjectedPolygons:
    """Return the shaded polygons of the faces and rods that are visible to the camera.

    Args:
        camera: The camera.
        mesh: Faces and rods.
        face_owner: (F,), index of the object of each face.
        rod_owner: (R,), index of the object of each rod.
        sun: (3,), direction towards the light.
        ambient: Brightness of faces in shadow, 0 to 1.
    """
    corners, depth = camera.project(mesh.faces)
    edge_a = corners[:, 1] - corners[:, 0]
    edge_b = corners[:, 2] - corners[:, 0]
    faces_camera = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0] < 0
    keep = faces_camera & (depth.min(-1) > NEAR_M) & is_in_view(camera, corners)
    normal = np.cross(mesh.faces[:, 1] - mesh.faces[:, 0], mesh.faces[:, 2] - mesh.faces[:, 0])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    light = ambient + (1 - ambient) * np.maximum(normal @ sun, 0) / max(sun[2], 0.35)
    outlines, rod_depth = rod_outlines(camera, mesh.rods, mesh.radii)
    keep_rod = (rod_depth > NEAR_M) & is_in_view(camera, outlines)
    rod_light = 0.5 + 0.5 * ambient
    return ProjectedPolygons(
        [
            *to_fixed_point(shrink_outlines(corners[keep])),
            *to_fixed_point(shrink_outlines(outlines[keep_rod])),
        ],
        np.concatenate(
            [
                (mesh.face_colours * np.minimum(light, 1.25)[:, None])[keep],
                mesh.rod_colours[keep_rod] * rod_light,
            ]
        ),
        np.concatenate([face_owner[keep], rod_owner[keep_rod]]),
    )


def shrink_outlines(outlines: Array) -> Array:
    """Return outlines (N, n, 2) shrunk by the margin that anti-aliased filling adds."""
    middle = outlines.mean(1, keepdims=True)
    away = outlines - middle
    reach = np.maximum(np.hypot(away[..., 0], away[..., 1]), 0.7)
    return np.asarray(middle + away * (1 - 0.35 / reach)[..., None])


def to_fixed_point(outlines: Array) -> npt.NDArray[np.int32]:
    """Convert pixels to OpenCV's fixed-point numbers; (0, 0) is the corner of a pixel, not its centre."""
    return np.asarray(np.round((np.clip(outlines, -2e4, 2e4) - 0.5) * 2**FIXED_POINT_BITS), np.int32)


def is_in_view(camera: SceneCamera, outlines: Array) -> npt.NDArray[np.bool_]:
    """Return which outlines (N, n, 2) touch the image and are neither tiny nor huge, (N,)."""
    low, high = outlines.min(1), outlines.max(1)
    edge = 2 * np.array(camera.centre)
    inside = np.all((high > 0) & (low < edge), axis=-1)
    return np.asarray(inside & ((high - low).max(-1) > 0.5) & ((high - low).max(-1) < 6 * edge.max()))


def project_shadows(mesh: Mesh, sun: Array) -> tuple[Array, Array]:
    """Return the shadows on the ground in metres, of the faces (F, 6, 2) and of the rods (R, 10, 2)."""
    slide = -sun[:2] / max(sun[2], 0.2)
    faces = mesh.faces[..., :2] + mesh.faces[..., 2:] * slide
    ends = mesh.rods[..., :2] + mesh.rods[..., 2:] * slide
    direction = ends[:, 1] - ends[:, 0]
    outlines = flat_rod_outlines(
        ends, np.arctan2(direction[:, 1], direction[:, 0]), np.repeat(mesh.radii[:, None], 2, axis=1)
    )
    return faces, outlines


def flat_rod_outlines(ends: Array, angle: Array, radius: Array) -> Array:
    """Return the outlines (R, 10, 2) of flat rods with ends (R, 2, 2), angles (R,) and radii (R, 2)."""
    half = np.linspace(math.pi / 2, 3 * math.pi / 2, ROD_CORNERS // 2)
    first, second = angle[:, None] + half, angle[:, None] + half + math.pi
    start = ends[:, :1] + radius[:, :1, None] * np.stack([np.cos(first), np.sin(first)], -1)
    stop = ends[:, 1:] + radius[:, 1:, None] * np.stack([np.cos(second), np.sin(second)], -1)
    return np.concatenate([start, stop], 1)
