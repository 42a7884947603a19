"""Clouds in the sky, and their shadows that move over the ground."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from edge.simulation.camera import Array
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import warp_tile
from edge.simulation.materials import Image, blend

SOFT = 4
"""Shadows and clouds are computed at this fraction of the image's size, as they are soft."""


@dataclass(frozen=True)
class CloudShadows:
    """Soft dark patches that move.

    Attributes:
        tile: (256, 256), periodic; 255 is in full light.
        tile_m: Width of the square in metres.
        velocity: Metres per second along x and y.
    """

    tile: Image
    tile_m: float
    velocity: tuple[float, float]

    def draw(self, image: Image, view: View) -> None:
        """Darken the ground."""
        size = (image.shape[1] // SOFT, image.shape[0] // SOFT)
        drift = (self.velocity[0] * view.time_s, self.velocity[1] * view.time_s)
        light = warp_tile(self.tile, self.tile_m, view.camera.scaled(1 / SOFT), size, drift)
        full = np.asarray(cv2.resize(light, (image.shape[1], image.shape[0])), np.uint8)
        cv2.multiply(image, cv2.merge([full] * 3), dst=image, scale=1 / 255)


@dataclass(frozen=True)
class CloudySky:
    """A layer of clouds above the camera.

    Attributes:
        tile: (256, 256), periodic; 255 is cloud and 0 is clear.
        tile_m: Width of the square in metres.
        height_m: Height above the camera in metres.
        velocity: Metres per second along x and y.
        colour: (3,), BGR.
    """

    tile: Image
    tile_m: float
    height_m: float
    velocity: tuple[float, float]
    colour: Array

    def draw(self, image: Image, view: View) -> None:
        """Draw the clouds above the horizon."""
        size = (image.shape[1] // SOFT, image.shape[0] // SOFT)
        camera = view.camera.scaled(1 / SOFT)
        below = camera.sine_below_horizon(*size)
        if below.min() >= 0:
            return
        # Clouds above the camera project like a ground below it under a mirrored camera.
        above = replace(camera, position=np.array([*camera.position[:2], -self.height_m]))
        drift = (self.velocity[0] * view.time_s, self.velocity[1] * view.time_s)
        cloud = warp_tile(self.tile, self.tile_m, above, size, drift)
        # Far clouds merge into the haze of the horizon.
        alpha = np.asarray(cloud * np.clip(-below * 8 - 0.2, 0, 1), np.uint8)
        full = np.asarray(cv2.resize(alpha, (image.shape[1], image.shape[0])), np.uint8)
        white = np.empty_like(image)
        white[:] = self.colour
        image[:] = blend(image, white, full)
