"""Endless repetition of a square on the ground, and its projection to the image."""

from __future__ import annotations

import math

import cv2
import numpy as np

from edge.simulation.camera import Array, SceneCamera
from edge.simulation.materials import Image


def view_centre(world_m: float, camera: SceneCamera) -> Array:
    """Return the ground point (2,) around which objects are drawn; of repeated copies, the nearest one is."""
    ahead = 0.4 * world_m
    if camera.pitch > 0:
        ahead = min(1.2 * camera.position[2] / math.tan(camera.pitch), ahead)
    return np.asarray(camera.position[:2] + ahead * np.array([math.sin(camera.yaw), math.cos(camera.yaw)]))


def nearest_copy(world_m: float, camera: SceneCamera, points: Array) -> Array:
    """Return the shifts (N, 2) in metres that bring points (N, 2) nearest to the view centre."""
    return np.asarray(world_m * np.round((view_centre(world_m, camera) - points) / world_m))


def tile_homography(tile_m: float, camera: SceneCamera, drift: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Return the homography from ground to pixels, with the origin moved by whole tiles to the camera."""
    offset = np.array(drift) + tile_m * np.floor((camera.position[:2] - drift) / tile_m)
    move = np.array([[1, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1.0]])
    return np.asarray(camera.ground_to_pixel() @ move)


def warp_tile(
    tile: Image, tile_m: float, camera: SceneCamera, size: tuple[int, int], drift: tuple[float, float]
) -> Image:
    """Return a repeated square texture as the camera sees it.

    Args:
        tile: The texture.
        tile_m: Width of the square in metres.
        camera: The camera.
        size: Width and height of the result.
        drift: Shift of the texture in metres.
    """
    scale = tile_m / tile.shape[0]
    to_metres = np.diag([scale, scale, 1.0])
    return np.asarray(
        cv2.warpPerspective(
            tile,
            tile_homography(tile_m, camera, drift) @ to_metres,
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        ),
        np.uint8,
    )
