"""The endless clip: frames of a seed's scene by index, with the truth about what is in them."""

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
from edge.simulation.mesh import Mesh, rod_outlines
from edge.simulation.renderer import MIN_DEPTH_M, nearest_copy, placed_mesh, render
from edge.simulation.scene_builder import Scene, build_scene, without_actor

MAX_SUPERSAMPLED_WIDTH = 640  # up to this width frames are drawn at twice their size


@dataclass(frozen=True)
class VisibleTarget:
    """Something that may draw the eye, on one frame.

    `box` is x, y, w, h in pixels from the top left, without the shadow, cut at the frame's edge.
    `speed` is the thing's own motion over the ground, as it appears in this frame with the camera
    held still, in target sizes (sqrt(w * h) of the whole thing) a second. `contrast` is its
    difference from the ground round it, 0..1; `visible` the share inside the frame and not behind
    something nearer, roughly, 0..1.
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
    """A picture (H, W, 3) uint8 BGR and what is in it."""

    image: npt.NDArray[np.uint8]
    targets: tuple[VisibleTarget, ...]


class World:
    """A made aerial clip without end: same seed and index, same bytes.

    The scene does not depend on the size asked for; only the fineness of its drawing does.
    """

    def __init__(self, seed: int, width: int, height: int, fps: float = 10.0, *, twins: bool = False) -> None:
        """A clip of width x height pixels at `fps` frames a second.

        With `twins`, of things that look the same and of which one moves.
        """
        if seed < 0 or width < 16 or height < 16 or fps <= 0:
            raise ValueError(
                f"a world of seed {seed}, {width}x{height}, {fps} fps was asked for; "
                "give a seed from 0, at least 16x16 pixels and a positive rate"
            )
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        fine = 1024 if width <= 400 else 2048
        self._scene = build_scene(seed, fine, twins)

    def without_target(self, target_id: int) -> World:
        """The same clip less one target."""
        other = copy.copy(self)
        other._scene = without_actor(self._scene, target_id)
        return other

    def frame(self, index: int) -> WorldFrame:
        """The picture and the truth at an index, in any order."""
        time_s = index / self.fps
        detail = 2 if self.width <= MAX_SUPERSAMPLED_WIDTH else 1
        camera = self._camera(time_s)
        image = render(self._scene, camera.scaled(detail), time_s, self.width * detail, self.height * detail)
        if detail > 1:
            image = np.asarray(
                cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA), np.uint8
            )
        rng = np.random.default_rng([self.seed, 99, index % 2**63])
        image = apply_effects(image, self._scene.effects, self._drift(time_s), rng)
        return WorldFrame(image, self.targets(index))

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """The truth alone: quick, for nothing is drawn. Negative indices lie before the start."""
        time_s = index / self.fps
        camera = self._camera(time_s)
        return visible_targets(self._scene, camera, time_s)

    def _camera(self, time_s: float) -> SceneCamera:
        return self._scene.flight.camera(time_s, self.width, self.height)

    def _drift(self, time_s: float) -> tuple[float, float]:
        """Motion of the ground in the middle of the picture, pixels a second."""
        focus = self._scene.flight.focus(time_s)
        spot = np.array([focus[0], focus[1], 0.0])
        now = self._camera(time_s).project(spot)[0]
        step = (self._camera(time_s + 0.02).project(spot)[0] - now) / 0.02
        return float(step[0]), float(step[1])


def pixel_bounds(camera: SceneCamera, mesh: Mesh) -> Array:
    """Corners (2, 2) in pixels of the upright box round a mesh."""
    corners = camera.project(mesh.faces.reshape(-1, 3))[0]
    outlines = rod_outlines(camera, mesh.rods, mesh.radii)[0].reshape(-1, 2)
    points = np.concatenate([corners, outlines])
    return np.stack([points.min(0), points.max(0)])


def visible_targets(scene: Scene, camera: SceneCamera, time_s: float) -> tuple[VisibleTarget, ...]:
    """How the actors appear; those outside the frame are left out."""
    meshes = [placed_mesh(scene, camera, actor, time_s) for actor in scene.actors]
    depths = np.array([float(camera.project(mesh.bounds().mean(0))[1]) for mesh in meshes])
    boxes = np.array([pixel_bounds(camera, mesh) for mesh in meshes]).reshape(-1, 2, 2)
    low, high, far = scenery_boxes(scene, camera)
    low, high = np.concatenate([low, boxes[:, 0]]), np.concatenate([high, boxes[:, 1]])
    far = np.concatenate([far, depths])
    edge = 2 * np.array(camera.centre)
    found = []
    for actor, mesh, depth, whole in zip(scene.actors, meshes, depths, boxes, strict=True):
        inside = np.clip(whole, 0, edge)
        w, h = inside[1] - inside[0]
        area = float(np.prod(np.maximum(whole[1] - whole[0], 1e-3)))
        if depth < MIN_DEPTH_M or w <= 0 or h <= 0 or area > 4 * float(np.prod(edge)):
            continue
        common = np.maximum(np.minimum(high, inside[1]) - np.maximum(low, inside[0]), 0).prod(1)
        cover = np.where((far > MIN_DEPTH_M) & (far < depth), common, 0).max() / (w * h)
        shown = float(w * h) / area * (1 - float(cover))
        found.append(
            VisibleTarget(
                actor.target_id,
                actor.appearance.kind,
                (float(inside[0, 0]), float(inside[0, 1]), float(w), float(h)),
                apparent_speed(scene, camera, actor, time_s) / math.sqrt(area),
                actor.is_moving,
                ground_contrast(scene, mesh, float(depth)),
                min(max(shown, 0.0), 1.0),
            )
        )
    return tuple(found)


def apparent_speed(scene: Scene, camera: SceneCamera, actor: Actor, time_s: float) -> float:
    """Pixels a second over the ground, the camera held still."""
    if not actor.is_moving:
        return 0.0
    step = 0.05
    places = np.array(
        [actor.trajectory.pose_at(time_s - step)[:2], actor.trajectory.pose_at(time_s + step)[:2]]
    )
    places += nearest_copy(scene, camera, places[:1])
    pixels = camera.project(np.column_stack([places, np.zeros(2)]))[0]
    return float(np.linalg.norm(pixels[1] - pixels[0]) / (2 * step))


def ground_contrast(scene: Scene, mesh: Mesh, depth: float) -> float:
    """Difference of colour from the ground round it, through the haze, 0..1."""
    x, y, _ = mesh.bounds().mean(0)
    light = 0.5 + 0.5 * scene.ambient
    gap = np.abs(mesh.mean_colour() * light - scene.ground.colour_at(float(x), float(y))).mean()
    return float(min(gap / 110.0, 1.0) * math.exp(-depth / scene.haze_m))


def scenery_boxes(scene: Scene, camera: SceneCamera) -> tuple[Array, Array, Array]:
    """Boxes round the scenery: low and high corners (N, 2) in pixels, depths (N,) in metres."""
    shift = np.zeros((len(scene.scenery_positions), 1, 3))
    shift[:, 0, :2] = nearest_copy(scene, camera, scene.scenery_positions)
    scenery_bounds = scene.scenery_bounds + shift
    picks = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = np.stack([scenery_bounds[:, picks[:, axis], axis] for axis in range(3)], axis=-1)
    pixels = camera.project(corners.reshape(-1, 3))[0].reshape(-1, 8, 2)
    far = camera.project(scenery_bounds.mean(1))[1]
    return pixels.min(1), pixels.max(1), far
