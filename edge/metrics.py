"""How far a map is from another: definitions as in Bylinskii et al., "What do different evaluation
metrics tell us about saliency models?", TPAMI 2019 (arXiv 1604.03605).

Maps are (H, W) and non-negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EPSILON = 2.2204e-16
"""The epsilon of KLD in the MIT benchmark's code."""


def cc(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return Pearson's correlation of two maps, in [-1, 1]; 0 if either is constant."""
    x = np.asarray(a, np.float64) - np.mean(a, dtype=np.float64)
    y = np.asarray(b, np.float64) - np.mean(b, dtype=np.float64)
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else 0.0


def kld(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the Kullback-Leibler divergence of `predicted` from the density `truth`, in nats.

    Both are divided by their sums: sum P log(eps + P / (S + eps)), rounding below 0 cut off.
    """
    s = np.asarray(predicted, np.float64) / (np.sum(predicted, dtype=np.float64) + EPSILON)
    p = np.asarray(truth, np.float64) / (np.sum(truth, dtype=np.float64) + EPSILON)
    return max(0.0, float((p * np.log(EPSILON + p / (s + EPSILON))).sum()))


def max_error(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the largest absolute difference; NaN if either holds a NaN."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
