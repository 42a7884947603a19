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
        gains: Gain of each timed assignment, a union of units.
        budget_used: Fraction of the budget that each evaluated assignment uses; these are unions, too.

    Returns:
        The proposal; None if no other assignment is expected to keep the budget.
    """
    if not gains:
        return None
    fastest = sorted(gains, key=lambda layers: -gains[layers])[:EXPANDED_BEST]
    evaluated = _indicator_matrix(list(budget_used), units)
    candidates = _untested(_candidates(_indicator_matrix(fastest, units)), evaluated)
    if not len(candidates):
        return None
    timed = _indicator_matrix(list(gains), units)
    expected_gains = _with_changes(candidates) @ _fit(_with_changes(timed), list(gains.values()))
    fractions = [min(fraction, MAX_BUDGET_USED) for fraction in budget_used.values()]
    within_budget = candidates @ _fit(evaluated, fractions) <= 1 + BUDGET_TOLERANCE
    if not within_budget.any():
        return None
    best = candidates[int(np.argmax(np.where(within_budget, expected_gains, -np.inf)))]
    return union(list(compress(units, best)))


def union(units: Sequence[Assignment]) -> Assignment:
    """Return the layers of all units."""
    return frozenset[str]().union(*units)


def _candidates(fastest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return all assignments of few units; of many, the neighbours of the fastest assignments.

    In a neighbour, a run of adjacent units or any two units switch precision. Assignments are rows that are 1
    where a unit is in int8.
    """
    units = fastest.shape[1]
    if units <= MAX_ENUMERATED_UNITS:
        return np.array(list(product((0, 1), repeat=units)), np.float64)
    at = np.arange(units)
    runs = [(first <= at) & (at < end) for first, end in combinations(range(units + 1), 2)]
    pairs = [(at == first) | (at == second) for first, second in combinations(range(units), 2)]
    return np.abs(fastest[:, None] - np.array(runs + pairs, np.float64)).reshape(-1, units)


def _untested(candidates: NDArray[np.float64], evaluated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the candidates once each, without those that were evaluated and the one without int8."""
    seen = {row.tobytes() for row in (*evaluated, np.zeros(candidates.shape[1]))}
    kept = []
    for index, row in enumerate(candidates):
        key = row.tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(index)
    return candidates[kept]


def _indicator_matrix(assignments: Sequence[Assignment], units: Sequence[Assignment]) -> NDArray[np.float64]:
    """Return a matrix (assignments, units) that is 1 where a unit is in int8."""
    return np.array([[unit <= layers for unit in units] for layers in assignments], np.float64)


def _with_changes(indicators: NDArray[np.float64]) -> NDArray[np.float64]:
    changes = [indicators[:, a] != indicators[:, b] for a, b in pairwise(range(indicators.shape[1]))]
    return np.column_stack([np.ones(len(indicators)), indicators, *changes]).astype(np.float64)


def _fit(features: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    normal = features.T @ features + RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(normal, features.T @ np.array(values)), np.float64)
