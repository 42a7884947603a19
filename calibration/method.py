"""Which method's ranges serve a graph best, where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from calibration.feeding import Feeding
from calibration.frames import Windows, spread_over
from calibration.histogram import METHODS, Histogram, Method
from calibration.judge import Judge
from calibration.placement import CPU
from calibration.qdq import quantise
from calibration.ranges import Ranges

Choosing = Literal["best", "entropy", "percentile", "mse", "minmax"]
BEST: Choosing = "best"
CHOICES: tuple[Choosing, ...] = (BEST, *METHODS)
LOOKED_AT = 32
"""Windows, of those that ranges are made from: those held out judge the result."""


def ranges_by(
    method: Choosing,
    model: onnx.ModelProto,
    counted: Mapping[str, Histogram],
    feeding: Feeding,
    windows: Windows,
) -> tuple[Method, Ranges]:
    """Return the ranges by a method; by "best", those whose int8 graph loses least on calibration windows.

    Clipping suits some networks and ruins others: in a saliency map the rare high values are the point.
    """
    found = {m: {name: h.range(m) for name, h in counted.items()} for m in METHODS if method in (BEST, m)}
    if len(found) == 1:
        ((only, ranges),) = found.items()
        return only, ranges
    judge = Judge(model, feeding, np.stack(spread_over(windows, LOOKED_AT)))
    lost: dict[Method, float] = {}
    for one, ranges in found.items():
        quality = judge(quantise(model, ranges, CPU))
        lost[one] = 1 - quality.cc + quality.kld
    best = min(lost, key=lambda one: lost[one])
    return best, found[best]
