"""Synthetic maps and frames for tests of smoothing, regions and tracking."""

from __future__ import annotations

import cv2
import numpy as np

from edge.core.frames import Image, Tensor


def blob(x: float, y: float, height: float = 1.0, side: int = 64, sigma: float = 2.5) -> Tensor:
    """Return a Gaussian (side, side) around (x, y) in [0, 1]; `sigma` is in pixels."""
    grid = np.arange(side) + 0.5
    across, down = (grid - x * side) / sigma, (grid - y * side) / sigma
    return (height * np.exp(-0.5 * (across[None] ** 2 + down[:, None] ** 2))).astype(np.float32)


def ground(width: int, height: int, seed: int = 1) -> Image:
    """Return a plane (height, width, 3) with texture for corner detection."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 30, width // 30, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
