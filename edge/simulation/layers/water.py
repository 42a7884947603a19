"""Moving foam and light on water: whitecaps, glints of the sun and breaking waves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.simulation.camera import SceneCamera
from edge.simulation.layers.layer import View
from edge.simulation.layers.tiling import warp_tile
from edge.simulation.materials import Image, blend


@dataclass(frozen=True)
class WaterMask:
    """Water of a world.

    Attributes:
        mask: (n, n), 255 on water.
        world_m: Width of the world in metres.
    """

    mask: Image
    world_m: float

    def seen(self, camera: SceneCamera, size: tuple[int, int]) -> Image | None:
        """Return the water in an image of a size (width, height), 255 on water; None if all is water."""
        if self.mask.min() == 255:
            return None
        return warp_tile(self.mask, self.world_m, camera, size, (0.0, 0.0))


@dataclass(frozen=True)
class Flecks:
    """Short-lived bright flecks: whitecaps, or glints below the sun.

    A fleck is where two moving noises are both high, so it appears, moves and vanishes.

    Attributes:
        tile: (512, 512), periodic noise.
        tile_m: Width of the square of noise in metres.
        speed: Metres per second.
        threshold: Value of the product of the noises, 0 to 255, at which flecks begin.
        gain: Brightness per step above the threshold.
        sun_azimuth: Direction of the sun, in radians clockwise from north, for flecks below the sun only.
        water: Where flecks may be.
    """

    tile: Image
    tile_m: float
    speed: float
    threshold: float
    gain: float
    sun_azimuth: float | None
    water: WaterMask

    def draw(self, image: Image, view: View) -> None:
        """Add the flecks."""
        height, width = image.shape[0] // 2, image.shape[1] // 2
        camera, size = view.camera.scaled(0.5), (width, height)
        way = self.speed * view.time_s
        first = warp_tile(self.tile, self.tile_m, camera, size, (0.8 * way, 0.5 * way))
        second = warp_tile(self.tile, 0.61 * self.tile_m, camera, size, (-0.5 * way, 0.9 * way))
        both = np.asarray(cv2.multiply(first, second, scale=1 / 255), np.uint8)
        levels = np.clip((np.arange(256) - self.threshold) * self.gain, 0, 255).astype(np.uint8)
        light = np.asarray(cv2.LUT(both, levels), np.uint8)
        below = camera.sine_below_horizon(width, height)
        weight = np.clip((below - 0.02) * 40, 0, 1)
        if self.sun_azimuth is not None:
            weight *= sun_path(camera, width, self.sun_azimuth)[None, :]
        light = np.asarray(light * weight, np.uint8)
        seen = self.water.seen(camera, size)
        if seen is not None:
            light = np.asarray(cv2.multiply(light, seen, scale=1 / 255), np.uint8)
        full = cv2.resize(light, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
        cv2.add(image, cv2.merge([full] * 3), dst=image)


def sun_path(camera: SceneCamera, width: int, sun_azimuth: float) -> np.typing.NDArray[np.float32]:
    """Return the weight (width,) of each image column in the path of light below the sun, 0 to 1."""
    turn = math.remainder(sun_azimuth - camera.yaw, 2 * math.pi)
    x = camera.centre[0] + camera.focal * math.tan(max(min(turn, 1.2), -1.2))
    across = (np.arange(width) + 0.5 - x) / (0.2 * width)
    return np.asarray(np.exp(-(across**2)), np.float32)


@dataclass(frozen=True)
class Breakers:
    """Rows of breaking waves that run towards the shore.

    Attributes:
        foam: (512, 512), periodic; foam of the crests, which run along the tile's rows.
        swell: (512, 512), periodic; 128 is calm, brighter ahead of a crest.
        tile_m: Width of both squares in metres.
        direction: Heading of the waves in radians, clockwise from north.
        speed: Metres per second.
        water: Where waves may be.
        grey: Grey level of foam.
    """

    foam: Image
    swell: Image
    tile_m: float
    direction: float
    speed: float
    water: WaterMask
    grey: int = 244

    def draw(self, image: Image, view: View) -> None:
        """Draw swell and foam."""
        size = (image.shape[1] // 2, image.shape[0] // 2)
        camera = turned(view.camera.scaled(0.5), self.direction)
        drift = (0.0, self.speed * view.time_s)
        foam = warp_tile(self.foam, self.tile_m, camera, size, drift)
        swell = warp_tile(self.swell, self.tile_m, camera, size, drift)
        seen = self.water.seen(view.camera.scaled(0.5), size)
        if seen is not None:
            foam = np.asarray(cv2.multiply(foam, seen, scale=1 / 255), np.uint8)
            swell[seen < 128] = 128
        full_size = (image.shape[1], image.shape[0])
        shade = np.asarray(cv2.resize(swell, full_size), np.uint8)
        cv2.multiply(image, cv2.merge([shade] * 3), dst=image, scale=1 / 128)
        alpha = np.asarray(cv2.resize(foam, full_size), np.uint8)
        image[:] = blend(image, np.full_like(image, self.grey), alpha)


def turned(camera: SceneCamera, heading: float) -> SceneCamera:
    """Return the camera in a world that is turned, so that a heading in this world is +y in that one."""
    c, s = math.cos(heading), math.sin(heading)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return SceneCamera(
        turn @ camera.position,
        camera.rotation @ turn.T,
        camera.pitch,
        camera.yaw - heading,
        camera.focal,
        camera.centre,
    )
