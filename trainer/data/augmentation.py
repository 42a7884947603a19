"""Random variation of the frames of a pool while training: crop, colour and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image
from edge.simulation.world import VisibleTarget
from trainer.data.scene_pool import Shot

MIN_CROP = 0.8
"""Least share of a frame's sides that a crop keeps."""
MAX_GAIN, MAX_TINT, MAX_SHIFT = 0.2, 0.06, 16
"""Largest relative change of the contrast, that of a channel besides, and change of the grey levels."""
MAX_NOISE = 5.0
"""Largest standard deviation of the noise in grey levels."""
CHANGED = 0.5
"""Share of samples to which each of the three is applied."""


@dataclass(frozen=True)
class Variation:
    """One random choice of crop, colour and noise, the same for all frames of a sample.

    It is a source of targets, as `Shot` is, with the positions that the targets have in the crop.

    Attributes:
        shot: Shot of the sample.
        left: Left edge of the crop in pixels.
        top: Top edge of the crop in pixels.
        width: Width of the crop.
        height: Height of the crop.
        colours: New value of each old value, for each channel (1, 256, 3); None changes no colour.
        noise: Standard deviation of the noise in grey levels.
        seed: Seed of the noise.
    """

    shot: Shot
    left: int
    top: int
    width: int
    height: int
    colours: NDArray[np.uint8] | None = None
    noise: float = 0.0
    seed: int = 0

    @classmethod
    def none(cls, shot: Shot) -> Variation:
        """Return the variation that changes nothing."""
        return cls(shot, 0, 0, shot.width, shot.height)

    @classmethod
    def draw(cls, shot: Shot, rng: np.random.Generator) -> Variation:
        """Return a random variation."""
        variation = cls.none(shot)
        crops, recolours, adds_noise = rng.random(3) < CHANGED
        if crops:
            share = rng.uniform(MIN_CROP, 1)
            width, height = round(shot.width * share), round(shot.height * share)
            left, top = rng.integers([shot.width - width + 1, shot.height - height + 1]).tolist()
            variation = replace(variation, left=left, top=top, width=width, height=height)
        if recolours:
            gain = rng.uniform(1 - MAX_GAIN, 1 + MAX_GAIN) + rng.uniform(-MAX_TINT, MAX_TINT, 3)
            values = (np.arange(256)[:, None] - 128) * gain + 128 + rng.uniform(-MAX_SHIFT, MAX_SHIFT)
            variation = replace(variation, colours=values.clip(0, 255).round().astype(np.uint8)[None])
        if adds_noise:
            noise, seed = float(rng.uniform(0, MAX_NOISE)), int(rng.integers(2**31))
            variation = replace(variation, noise=noise, seed=seed)
        return variation

    @property
    def fps(self) -> float:
        """Return the number of ticks per second."""
        return self.shot.fps

    def images(self, positions: Sequence[int]) -> list[Image]:
        """Return the frames of the shot at these positions, varied."""
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        images: list[Image] = [np.ascontiguousarray(self.shot.frames[at, rows, columns]) for at in positions]
        if self.colours is not None:
            images = [np.asarray(cv2.LUT(image, self.colours), np.uint8) for image in images]
        if self.noise:
            cv2.setRNGSeed(self.seed)
            grains = np.empty((self.height, self.width, 3), np.int16)
            mean, deviation = np.zeros(3), np.full(3, self.noise)
            images = [
                np.asarray(cv2.add(image, cv2.randn(grains, mean, deviation), dtype=cv2.CV_8U), np.uint8)
                for image in images
            ]
        return images

    def crop(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of the frame's maps (N, H, W) that is inside the crop, to the nearest pixel."""
        height, width = maps.shape[1:]
        scale = width / self.shot.width, height / self.shot.height
        left, right = (round(x * scale[0]) for x in (self.left, self.left + self.width))
        top, bottom = (round(y * scale[1]) for y in (self.top, self.top + self.height))
        return maps[:, top:bottom, left:right]

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Return the targets at a tick that are inside the crop."""
        targets = self.shot.targets(index)
        if (self.width, self.height) == (self.shot.width, self.shot.height):
            return targets
        moved = (self._crop(target) for target in targets)
        return tuple(target for target in moved if target is not None)

    def _crop(self, target: VisibleTarget) -> VisibleTarget | None:
        x, y, w, h = target.box
        left, top = max(x - self.left, 0.0), max(y - self.top, 0.0)
        width, height = min(x + w - self.left, self.width) - left, min(y + h - self.top, self.height) - top
        if width <= 0 or height <= 0:
            return None
        inside = width * height / (w * h)
        return replace(
            target, box=(left, top, width, height), visible_fraction=target.visible_fraction * inside
        )
