"""Where a viewer would look in a made world: fixation density from the truth about its targets.

A model of gaze, not a measurement: attention goes mostly to what moves of its own, then to what
stands out, then to what is near the middle; few things get it at a time; and it lags behind the
scene by up to a third of a second.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.simulation.world import VisibleTarget

GAZE_LAG_S = 0.3
GAZE_LAG_STEPS = 4
MIN_NOTICED_WIDTH = 0.006  # in frame widths; smaller things fade from notice
POSITION_LAG_SHARE = 0.25  # share of the lag that the looked-at place itself shows
COMPETITION_EXPONENT = 2.0  # exponent by which the most salient thing takes from the others
BACKGROUND_SHARE = 0.03  # share of a plain look round when something is to see


class TargetSource(Protocol):
    """What gaze needs of a world."""

    width: int
    height: int
    fps: float

    def targets(self, index: int) -> tuple[VisibleTarget, ...]:
        """What is in a frame."""
        ...


def target_saliency(target: VisibleTarget, width: int, height: int) -> float:
    """How much a target alone would draw the eye, about 0..1.5."""
    x, y, w, h = target.box
    size = math.sqrt(w * h) / width
    off = math.hypot((x + w / 2) / width - 0.5, ((y + h / 2) / height - 0.5) * 0.7)
    motion = min(target.speed / 0.8, 1.0)
    worth = motion * (0.35 + 0.65 * math.sqrt(target.contrast)) + 0.28 * target.contrast
    big = min(size / 0.03, 1.0) ** 0.5 * min(size / MIN_NOTICED_WIDTH, 1.0)
    return float(worth * big * target.visible_fraction * math.exp(-((off / 0.45) ** 2)))


def gaze_density(
    world: TargetSource, index: int, width: int, height: int, *, sigma: float = 0.018
) -> npt.NDArray[np.float32]:
    """Fixation density at a frame, (height, width) float32 with sum 1.

    `sigma` is the spread about a small target, in frame widths; larger targets spread wider.
    """
    weight: dict[int, float] = {}
    place: dict[int, tuple[float, float, float, float]] = {}
    back_s = np.linspace(0, GAZE_LAG_S, GAZE_LAG_STEPS)
    share = np.exp(-back_s / (GAZE_LAG_S / 2))
    for part, late in zip(share / share.sum(), back_s, strict=True):
        for target in world.targets(index - round(late * world.fps)):
            salience = target_saliency(target, world.width, world.height)
            weight[target.target_id] = weight.get(target.target_id, 0.0) + float(part) * salience
            if late == 0:
                place[target.target_id] = target.box
            elif target.target_id in place:
                old, new = target.box, place[target.target_id]
                pull = POSITION_LAG_SHARE * float(part)
                place[target.target_id] = (
                    new[0] + pull * (old[0] - new[0]),
                    new[1] + pull * (old[1] - new[1]),
                    new[2],
                    new[3],
                )
    density = np.zeros((height, width), np.float32)
    strongest = max((weight[ident] for ident in place), default=0.0)
    for ident, (x, y, w, h) in place.items():
        rank = weight[ident] * (weight[ident] / max(strongest, 1e-9)) ** (COMPETITION_EXPONENT - 1)
        if rank > 1e-3:
            spread = sigma * world.width
            density += rank * gaussian(
                ((x + w / 2) / world.width, (y + h / 2) / world.height),
                (math.hypot(spread, w / 4) / world.width, math.hypot(spread, h / 4) / world.height),
                width,
                height,
            )
    seen = float(density.sum())
    plain = gaussian((0.5, 0.5), (0.22, 0.22), width, height)
    doubt = max(BACKGROUND_SHARE, 1 - 6 * strongest)
    if seen > 0:
        density *= (1 - doubt) / seen
    else:
        doubt = 1.0
    return np.asarray(density + doubt * plain, np.float32)


def gaussian(
    centre: tuple[float, float], sigma: tuple[float, float], width: int, height: int
) -> npt.NDArray[np.float32]:
    """A Gaussian of sum 1 (height, width); centre and sigma in shares of width and height."""
    across = (np.arange(width) + 0.5) / width - centre[0]
    down = (np.arange(height) + 0.5) / height - centre[1]
    row = np.exp(-0.5 * (across / max(sigma[0], 0.5 / width)) ** 2)
    column = np.exp(-0.5 * (down / max(sigma[1], 0.5 / height)) ** 2)
    blob = np.outer(column, row)
    return np.asarray(blob / max(float(blob.sum()), 1e-12), np.float32)
