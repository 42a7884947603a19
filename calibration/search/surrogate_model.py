"""Linear surrogate model that proposes the next assignment to try from those measured so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, compress, pairwise, product

import numpy as np
from numpy.typing import NDArray

Assignment = frozenset[str]
"""The layers that run in int8. All others stay in the graph's float type."""

MAX_ENUMERATED_UNITS = 12
"""Number of units up to which all assignments are candidates; with more units, those near the fastest."""
EXPANDED_BEST = 3
"""Number of fastest assignments whose neighbours are candidates."""
BUDGET_TOLERANCE = 0.1
"""A candidate may exceed the budget by this fraction of it according to the model, and still be proposed."""
RIDGE = 1e-3
MAX_BUDGET_USED = 10.0
"""Limit for measured budget fractions, so that extreme values do not dominate the fit."""


def propose(
    units: Sequence[Assignment], gains: Mapping[Assignment, float], budget_used: Mapping[Assignment, float]
) -> Assignment | None:
    """Return the untested assignment that is expected to be the fastest within the budget.

    Both predictions are linear least-squares fits. The gain is a sum over units and over changes of
    precision between neighbouring units. The budget used is a sum over units.

    Args:
        units: Groups of layers that switch precision together, in graph order.
        gains: Gain of each timed assignment.
        budget_used: Fraction of the budget that each evaluated assignment uses.

    Returns:
        The proposal; None if no other assignment is expected to keep the budget.
    """
    pool = [layers for layers in _candidates(units, gains) if layers and layers not in budget_used]
    if not pool or not gains:
        return None
    candidates, timed = _indicator_matrix(pool, units), _indicator_matrix(list(gains), units)
    expected_gains = _with_changes(candidates) @ _fit(_with_changes(timed), list(gains.values()))
    fractions = [min(fraction, MAX_BUDGET_USED) for fraction in budget_used.values()]
    coefficients = _fit(_indicator_matrix(list(budget_used), units), fractions)
    within_budget = candidates @ coefficients <= 1 + BUDGET_TOLERANCE
    if not within_budget.any():
        return None
    return pool[int(np.argmax(np.where(within_budget, expected_gains, -np.inf)))]


def union(units: Sequence[Assignment]) -> Assignment:
    """Return the layers of all units."""
    return frozenset[str]().union(*units)


def _candidates(units: Sequence[Assignment], gains: Mapping[Assignment, float]) -> list[Assignment]:
    """Return all assignments of few units; of many, the neighbours of the fastest assignments.

    In a neighbour, a run of adjacent units or any two units switch precision.
    """
    if len(units) <= MAX_ENUMERATED_UNITS:
        return [union(list(compress(units, bits))) for bits in product((0, 1), repeat=len(units))]
    runs = combinations(range(len(units) + 1), 2)
    switches = [union(units[first:end]) for first, end in runs]
    switches += [first | second for first, second in combinations(units, 2)]
    fastest = sorted(gains, key=lambda layers: -gains[layers])[:EXPANDED_BEST]
    return list(dict.fromkeys(layers ^ switch for layers in fastest for switch in switches))


def _indicator_matrix(assignments: Sequence[Assignment], units: Sequence[Assignment]) -> NDArray[np.float64]:
    """Return a matrix (assignments, units) that is 1 where a unit is in int8."""
    return np.array([[unit <= layers for unit in units] for layers in assignments], np.float64)


def _with_changes(indicators: NDArray[np.float64]) -> NDArray[np.float64]:
    changes = [indicators[:, a] != indicators[:, b] for a, b in pairwise(range(indicators.shape[1]))]
    return np.column_stack([np.ones(len(indicators)), indicators, *changes]).astype(np.float64)


def _fit(features: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    normal = features.T @ features + RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(normal, features.T @ np.array(values)), np.float64)
