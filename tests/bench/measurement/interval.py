"""Intervals of 95 % that hold at any time, however often one looks.

A benchmark that stops when its interval is narrow looks at it many times. An ordinary interval of 95 % would
be wrong much more often than in 5 % of such runs. These are confidence sequences: with a probability of 95 %
they contain the truth at all looks together (Howard et al., "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 2021; by betting: Waudby-Smith and Ramdas, JRSS B 2024).

Each candidate for the truth is tested by a gambler who starts with a wealth of 1. If the candidate is the
truth, the bets are fair, and the wealth ever reaches 1 / p with a probability of at most p (Ville's
inequality). Candidates against which the wealth has reached it are rejected; the others are the interval. One
gambler bets that the truth is higher, another that it is lower, each with p = 2.5 %. The price is an interval
1.3 to 1.8 times as wide as one for a number of values that is fixed before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

WEALTH = 2 / 0.05
"""Wealth of a gambler that rejects a candidate: 95 % in all, two gamblers."""
STAKES = np.array([0.8, 0.4, 0.2, 0.1])
"""A gambler divides the wealth among these: high stakes win early, low ones with many values."""
LEAST_SCALE = 1e-6
"""Least scale of log ratios, for clocks whose steps make many values equal."""
_BISECTIONS = 30


def ratio_interval(log_ratios: Sequence[float] | Values) -> tuple[float, float]:
    """Return the interval of a log ratio, from one log ratio per block of turns.

    In a block each contestant has one turn, and their order is drawn at random. Load, bursts and drift slow
    down the turn that they meet, whoever has it. So the order decides by a fair coin to which side of the
    truth a block's log ratio falls, and each block has its own coin. This holds for noise of any
    distribution that may be correlated over any time. Resampling turns or blocks (a bootstrap) would have to
    assume how long noise lasts. What is needed is that noise slows the contestants by the same factor; for
    this their turns take equally long. If the time of one contestant varies by itself, and more to one side,
    the interval is that of a centre between the mean and the median of the log ratios.

    A bet on a block multiplies the wealth by 1 + stake * tanh((x - candidate) / scale). The expectation of
    this factor is 1 where x is symmetric around the candidate. An outlier costs no more than the stake. The
    scale is that of the noise in earlier blocks. Before the third block there is no bet.

    Returns:
        Lower and upper end; infinite as long as there are too few blocks.
    """
    values = np.asarray(log_ratios, np.float64)
    scales = _past_scales(values)
    return _last_rejected(values, scales), -_last_rejected(-values, scales)


def median_interval(values: Sequence[float] | Values) -> tuple[float, float]:
    """Return the interval of the median of values that are not paired with others.

    The gamblers bet on the sides of a candidate to which the values fall, so nothing is assumed about the
    distribution. But the values must be independent of each other. Load that lasts for several values breaks
    this: on made noise with bursts of ten values, a quarter of the intervals missed the median. So do not
    trust a value from a busy machine. A ratio does not have this weakness.

    Returns:
        Lower and upper end; infinite as long as there are too few values.
    """
    ordered, count = np.sort(np.asarray(values, np.float64)), len(values)
    on_one_side = np.arange(count, 0, -1)  # values from an ordered one to the end
    wealth = np.mean(
        (1 + STAKES[:, None]) ** on_one_side * (1 - STAKES[:, None]) ** (count - on_one_side), axis=0
    )
    rejected = int(np.sum(wealth >= WEALTH))
    if not rejected:
        return -math.inf, math.inf
    return float(ordered[rejected - 1]), float(ordered[-rejected])


def _past_scales(values: Values) -> Values:
    """Return the scale of the noise before each value; infinite where it is not known.

    A bet may depend on all earlier values, and not on its own. The scale changes now and then only, which
    saves time.
    """
    scales, steps = np.full(len(values), np.inf), np.abs(np.diff(values))
    index = 2
    while index < len(values):
        scales[index:] = max(float(np.median(steps[: index - 1])), LEAST_SCALE)
        index = 1 + index * 5 // 4
    return scales


def _last_rejected(values: Values, scales: Values) -> float:
    """Return the highest candidate that is rejected in favour of higher ones; -inf if there is none."""

    def is_rejected(candidate: float) -> bool:
        factors = 1 + STAKES[:, None] * np.tanh((values - candidate) / scales)
        return bool(factors.prod(axis=1).mean() >= WEALTH)

    if len(values) < 3:
        return -math.inf
    low, high = float(values.min()) - 10 * float(scales[-1]), float(values.max())
    if not is_rejected(low):
        return -math.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_rejected(middle) else (low, middle)
    return low
