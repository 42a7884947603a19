"""Ground materials: colour tables over smooth periodic noise."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from edge.simulation.mesh import Colour

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

BANK_SIZE = 1024
"""Side of the noise images in pixels."""
MATERIALS: dict[str, tuple[Colour, ...]] = {
    "grass": ((35, 75, 60), (60, 125, 95), (90, 160, 140)),
    "lawn": ((30, 90, 50), (50, 130, 80), (70, 150, 105)),
    "dry grass": ((60, 105, 115), (85, 135, 150), (120, 165, 180)),
    "field": ((45, 70, 80), (75, 115, 120), (110, 160, 165)),
    "sand": ((125, 160, 185), (150, 185, 210), (185, 210, 230)),
    "desert": ((85, 115, 145), (105, 140, 175), (140, 170, 200)),
    "dirt": ((45, 65, 85), (75, 100, 125), (110, 135, 160)),
    "gravel": ((90, 95, 100), (130, 135, 140), (180, 185, 190)),
    "asphalt": ((55, 55, 55), (85, 84, 82), (112, 110, 108)),
    "concrete": ((120, 125, 130), (150, 152, 158), (180, 183, 188)),
    "pink paving": ((115, 120, 135), (140, 145, 165), (165, 172, 190)),
    "brick": ((50, 55, 110), (70, 75, 140), (95, 100, 165)),
    "snow": ((205, 195, 185), (230, 226, 220), (250, 249, 247)),
    "mud": ((30, 40, 50), (50, 62, 75), (85, 95, 105)),
    "forest": ((15, 35, 25), (30, 65, 45), (55, 100, 80)),
    "rock": ((60, 65, 68), (105, 110, 115), (160, 165, 168)),
    "dark water": ((45, 35, 15), (75, 60, 25), (100, 85, 45)),
    "teal water": ((85, 75, 10), (115, 105, 25), (140, 135, 50)),
    "grey water": ((95, 95, 85), (125, 125, 112), (160, 160, 148)),
    "green water": ((60, 75, 45), (85, 105, 70), (115, 140, 105)),
    "brown water": ((75, 100, 120), (100, 130, 150), (135, 160, 175)),
    "blue water": ((120, 80, 20), (155, 110, 40), (190, 150, 80)),
}
"""Two or three colours (BGR) of each material, from the lowest to the highest value of the noise."""
WATER_MATERIALS = tuple(name for name in MATERIALS if name.endswith("water"))
SOFT_MATERIALS = (
    "grass",
    "lawn",
    "dry grass",
    "field",
    "sand",
    "desert",
    "dirt",
    "gravel",
    "snow",
    "mud",
    "rock",
    "forest",
)
HARD_MATERIALS = ("asphalt", "concrete", "pink paving", "brick", "gravel")


@functools.lru_cache(maxsize=1)
def noise_bank() -> tuple[Image, ...]:
    """Return periodic noise images (1024, 1024), from coarse to fine."""
    rng = np.random.default_rng(20)  # a fixed seed: all scenes share the bank
    bank = []
    for slope, first in ((0.55, 2), (0.62, 3), (0.68, 4), (0.6, 8), (0.6, 16), (0.78, 24)):
        total = np.zeros((BANK_SIZE, BANK_SIZE), np.float32)
        cells, weight = first, 1.0
        while cells <= BANK_SIZE // 2:
            grid = rng.normal(0, weight, (cells, cells)).astype(np.float32)
            grid = np.pad(grid, 2, mode="wrap")
            step = BANK_SIZE / cells
            fine = cv2.warpAffine(
                grid,
                np.array([[step, 0, -2 * step], [0, step, -2 * step]]),
                (BANK_SIZE, BANK_SIZE),
                flags=cv2.INTER_CUBIC,
            )
            total += fine
            cells, weight = cells * 2, weight * slope
        total = (total - total.mean()) / total.std()
        bank.append(np.clip(128 + 50 * total, 0, 255).astype(np.uint8))
    grain = cv2.GaussianBlur(rng.normal(0, 1, (BANK_SIZE, BANK_SIZE)), (0, 0), 0.6)
    bank.append(np.clip(128 + 40 * grain / grain.std(), 0, 255).astype(np.uint8))
    return tuple(bank)


def sample_noise(rng: Rng, level: int, size: int) -> Image:
    """Return a noise image (size, size) with mean 128, randomly shifted and flipped.

    Args:
        rng: Random numbers.
        level: Index into `noise_bank()`, from coarse to fine.
        size: Side in pixels.
    """
    tile = noise_bank()[level]
    top, left = rng.integers(0, BANK_SIZE, 2)
    tile = np.roll(tile, (int(top), int(left)), (0, 1))
    tile = np.asarray(cv2.flip(tile, int(rng.integers(-1, 2))), np.uint8)
    if rng.random() < 0.5:
        tile = np.asarray(cv2.transpose(tile), np.uint8)
    if size == BANK_SIZE:
        return tile
    interpolation = cv2.INTER_CUBIC if size > BANK_SIZE else cv2.INTER_AREA
    return np.asarray(cv2.resize(tile, (size, size), interpolation=interpolation), np.uint8)


def sample_colour_table(rng: Rng, material: str) -> Image:
    """Sample a variation of the colour table (256, 1, 3) of a material."""
    stops = np.array(MATERIALS[material], dtype=float)
    gain = rng.uniform(0.8, 1.1) * (1 + rng.normal(0, 0.04, 3))
    contrast = 0.15 + 0.85 * rng.random() ** 2
    middle = stops.mean(0)
    stops = (middle + (stops - middle) * contrast) * gain
    table = np.stack(
        [np.interp(np.arange(256), np.linspace(30, 225, len(stops)), stops[:, c]) for c in range(3)],
        -1,
    )
    return np.asarray(np.clip(table, 0, 255), np.uint8).reshape(256, 1, 3)


def fill_material(rng: Rng, material: str, size: int, level: int) -> Image:
    """Return an image (size, size, 3) of one material, coloured by noise of a level."""
    tone = sample_noise(rng, level, size)
    return np.asarray(cv2.applyColorMap(tone, sample_colour_table(rng, material)), np.uint8)


def modulate_brightness(rng: Rng, image: Image, level: int, strength: float) -> None:
    """Multiply the image in place by noise of a level."""
    table = np.clip(128 + (np.arange(256) - 128) * strength, 0, 255).astype(np.uint8)
    tone = cv2.LUT(sample_noise(rng, level, image.shape[0]), table)
    cv2.multiply(image, cv2.merge([tone, tone, tone]), dst=image, scale=1 / 128)


def blend_patches(rng: Rng, image: Image, other: Image, level: int, soft: bool) -> Image:
    """Return the image with patches of another, where noise of a level is high.

    Args:
        rng: Random numbers.
        image: (H, W, 3).
        other: (H, W, 3), seen in the patches.
        level: Index into `noise_bank()`.
        soft: The patches have soft edges.
    """
    tone = sample_noise(rng, level, image.shape[0])
    edge = rng.uniform(110, 190)
    sharp = rng.uniform(1.0, 5.0) if soft else 40.0
    table = np.clip((np.arange(256) - edge) * sharp + 128, 0, 255).astype(np.uint8)
    return blend(image, other, np.asarray(cv2.LUT(tone, table), np.uint8))


def blend(image: Image, other: Image, mask: npt.NDArray[np.uint8]) -> Image:
    """Return `other` where the mask (H, W) is 255, and `image` where it is 0."""
    weight = cv2.merge([mask, mask, mask])
    over = cv2.multiply(other, weight, scale=1 / 255)
    under = cv2.multiply(image, cv2.bitwise_not(weight), scale=1 / 255)
    return np.asarray(cv2.add(over, under), np.uint8)
