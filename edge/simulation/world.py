"""Endless synthetic clip: the frames of a seed by index, with ground truth of their targets."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge.simulation.actors import Actor
from edge.simulation.camera import Array, SceneCamera
from edge.simulation.camera_effects import apply_effects
from edge.simulation.kinds.builder import build_kind_scene
from edge.simulation.kinds.catalogue import EMPTY, KINDS
from edge.simulation.layers.tiling import nearest_copy
from edge.simulation.mesh import Mesh, rod_outlines
from edge.simulation.renderer import MIN_DEPTH_M, placed_mesh, render
from edge.simulation.scene_builder import Scene, build_scene, without_actor

MAX_SUPERSAMPLED_WIDTH = 640
"""Frames up to this width are drawn at twice their size and reduced."""


@dataclass(frozen=True)
class VisibleTarget:
    """A possible target of attention in one frame.

    Attributes:
        target_id: Number of the target in its clip.
        kind: Such as "car" or "person".
        box: x, y, w, h in pixels from the top left, without the shadow, clipped to the frame.
        speed: Motion over the ground as it appears with the camera held still, in target sizes per second.
            The size is sqrt(w * h) of the box before clipping.
        is_moving: The target moves at some time of the clip.
        contrast: Difference from the ground around it, 0 to 1.
        visible_fraction: Approximate fraction inside the frame and not covered by nearer objects, 0 to 1.
    """

    target_id: int
    kind: str
    box: tuple[float, float, float, float]
    speed: float
    is_moving: bool
    contrast: float
    visible_fraction: float


@dataclass(frozen=True)
class WorldFrame:
    """A frame (H, W, 3), uint8, BGR, and its targets."""

    image: npt.NDArray[np.uint8]
    targets: tuple[VisibleTarget, ...]


class World:
    """Endless synthetic aerial clip.

    On one machine, with the same versions of OpenCV and NumPy, the same seed and index give the same bytes.
    Another processor draws the same scene in slightly different values (docs/reference/world.md).

    The scene does not depend on the size of the frames; only the resolution of its drawing does.

    Args:
        seed: From 0.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
        fps: Frames per second.
        twins: The actors look the same, and one of them moves.
        kind: Kind of the scene, one of `edge.simulation.kinds.catalogue.KINDS`; "" for a plain scene, which
            is the same in all versions of this package.
        empty: The scene has no targets, and nothing that looks like one. Without a kind, it is of any kind.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        seed: int,
        width: int,
        height: int,
        fps: float = 10.0,
        *,
        twins: bool = False,
        kind: str = "",
        empty: bool = False,
    ) -> None:
        if seed < 0 or width < 16 or height < 16 or fps <= 0:
            raise ValueError(
                f"cannot create a world with seed {seed}, {width}x{height}, {fps} fps; "
                "expected a seed from 0, at least 16x16 pixels and a positive frame rate"
            )
        if kind and kind not in KINDS:
            raise ValueError(f"no kind of scene {kind!r}; expected one of {', '.join(KINDS)}")
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        texture_size = 1024 if width <= 400 else 2048
        if kind or empty:
            self._scene = build_kind_scene(seed, texture_size, kind or EMPTY, twins, empty)
        else:
            self._scene = build_scene(seed, texture_size, twins)

    def without_target(self, target_id: int) -> World:
        """Return the same clip without one target."""
        other = copy.copy(self)
        other._scene = without_actor(self._scene, target_id)
        return other

    def frame(self, index: int) -> WorldFrame:
        """Return the frame at an index. Indices may be requested in any order."""
        time_s = index / self.fps
        detail = 2 if self.width <= MAX_SUPERSAMPLED_WIDTH else 1
        camera = self._camera(time_s)
        image = render(self._scene, camera.scaled(detail), time_s, self.width * detail, self.height * detail)
        if detail > 1:
            image = np.asarray(
                cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA), np.uint8
            )
        # The generator accepts no negative seeds, but negative indices are valid.
        rng = np.random.default_rng([self.seed, 99, index % 2**63])
        image = apply_effects(image, self._scene.effects, self._drift(time_s), rng)
        return WorldFrame(image, self.targets(index))

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Return the targets of a frame without drawing it. Negative indices lie before the start."""
        time_s = index / self.fps
        camera = self._camera(time_s)
        return visible_targets(self._scene, camera, time_s)

    def _camera(self, time_s: float) -> SceneCamera:
        return self._scene.flight.camera(time_s, self.width, self.height)

    def _drift(self, time_s: float) -> tuple[float, float]:
        """Return the motion of the ground at the image centre, in pixels per second."""
        focus = self._scene.flight.focus(time_s)
        point = np.array([focus[0], focus[1], 0.0])
        now = self._camera(time_s).project(point)[0]
        step = (self._camera(time_s + 0.02).project(point)[0] - now) / 0.02
        return float(step[0]), float(step[1])


def pixel_bounds(camera: SceneCamera, mesh: Mesh) -> Array:
    """Return the corners (2, 2) in pixels of the bounding box of a mesh."""
    corners = camera.project(mesh.faces.reshape(-1, 3))[0]
    outlines = rod_outlines(camera, mesh.rods, mesh.radii)[0].reshape(-1, 2)
    points = np.concatenate([corners, outlines])
    return np.stack([points.min(0), points.max(0)])


def visible_targets(scene: Scene, camera: SceneCamera, time_s: float) -> tuple[VisibleTarget, ...]:
    """Return the actors that are inside the image."""
    meshes = [placed_mesh(scene, camera, actor, time_s) for actor in scene.actors]
    depths = np.array([float(camera.project(mesh.bounds().mean(0))[1]) for mesh in meshes])
    boxes = np.array([pixel_bounds(camera, mesh) for mesh in meshes]).reshape(-1, 2, 2)
    low, high, all_depths = scenery_boxes(scene, camera)
    low, high = np.concatenate([low, boxes[:, 0]]), np.concatenate([high, boxes[:, 1]])
    all_depths = np.concatenate([all_depths, depths])
    edge = 2 * np.array(camera.centre)
    targets = []
    for actor, mesh, depth, bounds in zip(scene.actors, meshes, depths, boxes, strict=True):
        clipped = np.clip(bounds, 0, edge)
        w, h = clipped[1] - clipped[0]
        area = float(np.prod(np.maximum(bounds[1] - bounds[0], 1e-3)))
        # The projection of a mesh around the camera is huge and meaningless.
        if depth < MIN_DEPTH_M or w <= 0 or h <= 0 or area > 4 * float(np.prod(edge)):
            continue
        overlap = np.maximum(np.minimum(high, clipped[1]) - np.maximum(low, clipped[0]), 0).prod(1)
        covered = np.where((all_depths > MIN_DEPTH_M) & (all_depths < depth), overlap, 0).max() / (w * h)
        visible = float(w * h) / area * (1 - float(covered))
        targets.append(
            VisibleTarget(
                actor.target_id,
                actor.appearance.kind,
                (float(clipped[0, 0]), float(clipped[0, 1]), float(w), float(h)),
                apparent_speed(scene, camera, actor, time_s) / math.sqrt(area),
                actor.is_moving,
                ground_contrast(scene, mesh, float(depth)),
                min(max(visible, 0.0), 1.0),
            )
        )
    return tuple(targets)


def apparent_speed(scene: Scene, camera: SceneCamera, actor: Actor, time_s: float) -> float:
    """Return the speed over the ground in pixels per second, with the camera held still."""
    if not actor.is_moving:
        return 0.0
    step = 0.05
    points = np.array(
        [actor.trajectory.pose_at(time_s - step)[:2], actor.trajectory.pose_at(time_s + step)[:2]]
    )
    points += nearest_copy(scene.ground.world_m, camera, points[:1])
    pixels = camera.project(np.column_stack([points, np.zeros(2)]))[0]
    return float(np.linalg.norm(pixels[1] - pixels[0]) / (2 * step))


def ground_contrast(scene: Scene, mesh: Mesh, depth: float) -> float:
    """Return the colour difference from the ground around a mesh, reduced by haze, 0 to 1."""
    x, y, _ = mesh.bounds().mean(0)
    light = 0.5 + 0.5 * scene.ambient
    gap = np.abs(mesh.mean_colour() * light - scene.ground.colour_at(float(x), float(y))).mean()
    return float(min(gap / 110.0, 1.0) * math.exp(-depth / scene.haze_m))


def scenery_boxes(scene: Scene, camera: SceneCamera) -> tuple[Array, Array, Array]:
    """Return the bounding boxes of the scenery.

    Returns:
        Low and high corners (N, 2) in pixels, and depths (N,) in metres.
    """
    shift = np.zeros((len(scene.scenery_positions), 1, 3))
    shift[:, 0, :2] = nearest_copy(scene.ground.world_m, camera, scene.scenery_positions)
    bounds = scene.scenery_bounds + shift
    corner_indices = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = np.stack([bounds[:, corner_indices[:, axis], axis] for axis in range(3)], axis=-1)
    pixels = camera.project(corners.reshape(-1, 3))[0].reshape(-1, 8, 2)
    depths = camera.project(bounds.mean(1))[1]
    return pixels.min(1), pixels.max(1), depths
