"""Model of gaze in a simulated world: fixation density from the known targets of a frame.

This is a model, not a measurement. Attention goes mostly to targets that move on their own, then to targets
with high contrast, then to targets near the centre. Few targets get attention at a time. Attention lags
behind the scene by up to `GAZE_LAG_S`.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.simulation.world import VisibleTarget

GAZE_LAG_S = 0.3
GAZE_LAG_STEPS = 4
MIN_NOTICED_WIDTH = 0.006
"""Size of a target, in frame widths, below which its saliency falls off."""
POSITION_LAG_SHARE = 0.25
"""Share of the lag that also applies to the position that is looked at."""
COMPETITION_EXPONENT = 2.0
"""Exponent by which the most salient target takes attention from the others."""
BACKGROUND_SHARE = 0.03
"""Share of the central background density when there is something to look at."""


class TargetSource(Protocol):
    """Part of a simulated world that the gaze model needs."""

    @property
    def width(self) -> int:
        """Return the width of the frames in pixels."""

    @property
    def height(self) -> int:
        """Return the height of the frames in pixels."""

    @property
    def fps(self) -> float:
        """Return the frame rate of the indices."""

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """Return the targets that are visible in a frame."""
        ...


def target_saliency(target: VisibleTarget, width: int, height: int) -> float:
    """Return how strongly a target alone attracts attention, about 0 to 1.5."""
    x, y, w, h = target.box
    size = math.sqrt(w * h) / width
    eccentricity = math.hypot((x + w / 2) / width - 0.5, ((y + h / 2) / height - 0.5) * 0.7)
    motion = min(target.speed / 0.8, 1.0)
    conspicuity = motion * (0.35 + 0.65 * math.sqrt(target.contrast)) + 0.28 * target.contrast
    size_factor = min(size / 0.03, 1.0) ** 0.5 * min(size / MIN_NOTICED_WIDTH, 1.0)
    centre_factor = math.exp(-((eccentricity / 0.45) ** 2))
    return float(conspicuity * size_factor * target.visible_fraction * centre_factor)


def gaze_density(
    world: TargetSource, index: int, width: int, height: int, *, sigma: float = 0.018
) -> npt.NDArray[np.float32]:
    """Return the fixation density of a frame, (height, width) float32 with sum 1.

    Args:
        world: Source of the targets.
        index: Index of the frame.
        width: Width of the density in pixels.
        height: Height of the density in pixels.
        sigma: Standard deviation around a small target, in frame widths. Larger targets spread wider.
    """
    weights, boxes = _lagged_targets(world, index)
    density = np.zeros((height, width), np.float32)
    strongest = max((weights[target_id] for target_id in boxes), default=0.0)
    for target_id, (x, y, w, h) in boxes.items():
        weight = weights[target_id]
        attention = weight * (weight / max(strongest, 1e-9)) ** (COMPETITION_EXPONENT - 1)
        if attention > 1e-3:
            spread = sigma * world.width
            density += attention * gaussian(
                ((x + w / 2) / world.width, (y + h / 2) / world.height),
                (math.hypot(spread, w / 4) / world.width, math.hypot(spread, h / 4) / world.height),
                width,
                height,
            )
    total = float(density.sum())
    background = gaussian((0.5, 0.5), (0.22, 0.22), width, height)
    background_share = max(BACKGROUND_SHARE, 1 - 6 * strongest)
    if total > 0:
        density *= (1 - background_share) / total
    else:
        background_share = 1.0
    return np.asarray(density + background_share * background, np.float32)


Box = tuple[float, float, float, float]


def _lagged_targets(world: TargetSource, index: int) -> tuple[dict[int, float], dict[int, Box]]:
    """Return each target's saliency, averaged over the lag, and its box, drawn towards its past boxes."""
    weights: dict[int, float] = {}
    boxes: dict[int, Box] = {}
    lags_s = np.linspace(0, GAZE_LAG_S, GAZE_LAG_STEPS)
    lag_weights = np.exp(-lags_s / (GAZE_LAG_S / 2))
    for lag_weight, lag_s in zip(lag_weights / lag_weights.sum(), lags_s, strict=True):
        for target in world.targets(index - round(lag_s * world.fps)):
            salience = target_saliency(target, world.width, world.height)
            target_id = target.target_id
            weights[target_id] = weights.get(target_id, 0.0) + float(lag_weight) * salience
            if lag_s == 0:
                boxes[target_id] = target.box
            elif target_id in boxes:
                past, now = target.box, boxes[target_id]
                pull = POSITION_LAG_SHARE * float(lag_weight)
                boxes[target_id] = (
                    now[0] + pull * (past[0] - now[0]),
                    now[1] + pull * (past[1] - now[1]),
                    now[2],
                    now[3],
                )
    return weights, boxes


def gaussian(
    centre: tuple[float, float], sigma: tuple[float, float], width: int, height: int
) -> npt.NDArray[np.float32]:
    """Return a Gaussian (height, width) with sum 1.

    Args:
        centre: Position (x, y), in shares of width and height.
        sigma: Standard deviations (x, y), in shares of width and height; at least half a pixel.
        width: Width in pixels.
        height: Height in pixels.
    """
    across = (np.arange(width) + 0.5) / width - centre[0]
    down = (np.arange(height) + 0.5) / height - centre[1]
    row = np.exp(-0.5 * (across / max(sigma[0], 0.5 / width)) ** 2)
    column = np.exp(-0.5 * (down / max(sigma[1], 0.5 / height)) ** 2)
    values = np.outer(column, row)
    return np.asarray(values / max(float(values.sum()), 1e-12), np.float32)
