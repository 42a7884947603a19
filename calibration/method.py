"""Which method's ranges serve a graph best, where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from calibration.feeding import Feeding
from calibration.frames import Windows, spread_over
from calibration.histogram import METHODS, Histogram, Method
from calibration.judge import Judge, quality
from calibration.placement import CPU
from calibration.qdq import quantise
from edge.quantisation import Ranges

Choosing = Literal["best", "entropy", "percentile", "mse", "minmax"]
BEST: Choosing = "best"
CHOICES: tuple[Choosing, ...] = (BEST, *METHODS)
LOOKED_AT = 64
"""Windows, of those that ranges are made from: those held out judge the result."""


def ranges_by(
    method: Choosing,
    model: onnx.ModelProto,
    counted: Mapping[str, Histogram],
    feeding: Feeding,
    windows: Windows,
) -> tuple[Method, Ranges]:
    """Return the ranges by a method; by "best", those whose int8 graph loses least on the calibration
    window on which it loses most (1 - CC + KLD).

    The worst window and not the mean, for clipping gains a little on most frames and ruins the rare one
    with high values, which in a saliency map are the point.
    """
    by = {m: {name: h.range(m) for name, h in counted.items()} for m in METHODS if method in (BEST, m)}
    if len(by) == 1:
        ((only, ranges),) = by.items()
        return only, ranges
    judge = Judge(model, feeding, np.stack(spread_over(windows, LOOKED_AT)))
    lost: dict[Method, float] = {}
    for one, ranges in by.items():
        maps = judge.maps(quantise(model, ranges, CPU))
        each = [quality([got], [wanted]) for got, wanted in zip(maps, judge.expected, strict=True)]
        lost[one] = max(1 - found.cc + found.kld for found in each)
    best = min(lost, key=lambda one: lost[one])
    return best, by[best]
