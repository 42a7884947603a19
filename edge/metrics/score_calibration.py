"""Calibration of a region's score: the probability that the region marks a target.

A saliency map is relative to its frame. Its sum says nothing, and where there is nothing to see, most of it
lies in one wide region. What tells a scene with targets from an empty one is how much the map is focused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LOG_ODDS = 30.0


@dataclass(frozen=True)
class ScoreCalibration:
    """Logistic model of a release (J. Platt, "Probabilistic outputs for support vector machines", 1999).

    The log-odds that a region marks a target are
    `share` * log2(share of the map in the region) + `focus` * log2(`map_focus`) + `offset`.

    Attributes:
        share: Weight of the region's share of the map.
        focus: Weight of the map's focus.
        offset: Log-odds of a region with the whole of a map that is the same everywhere.
        threshold: Score from which a region is reported.
    """

    share: float
    focus: float
    offset: float
    threshold: float

    def score(self, share: float, focus: float) -> float:
        """Return the probability in [0, 1] that a region marks a target.

        Args:
            share: Share of the map's sum in the region, in [0, 1].
            focus: `map_focus` of the map.
        """
        if not share > 0:
            return 0.0
        log_odds = self.share * math.log2(share) + self.focus * math.log2(focus) + self.offset
        return 1 / (1 + math.exp(-max(-MAX_LOG_ODDS, min(log_odds, MAX_LOG_ODDS))))


def map_focus(saliency: NDArray[Any]) -> float:
    """Return how many times smaller than the frame the attended area is, from 1 to the number of pixels.

    The attended area is exp(entropy) pixels: the area of a constant density with the entropy of the map. A
    map of zeros has a focus of 1.
    """
    total = float(saliency.sum(dtype=np.float64))
    if not total > 0:
        return 1.0
    density = saliency.ravel() * (1 / total)
    # Pixels of zero have no part in the entropy, and log needs a positive number.
    entropy = -float(np.dot(density, np.log(np.maximum(density, 1e-12))))
    return float(max(1.0, saliency.size / math.exp(entropy)))
