"""What is worth trying next: a linear model of the assignments found so far guesses the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, compress, pairwise, product

import numpy as np
from numpy.typing import NDArray

Assignment = frozenset[str]

MAX_ENUMERATED_UNITS = 12
"""Units up to which all assignments are guessed; beyond, those near the fastest."""
EXPANDED_BEST = 3
"""How many of the fastest have others guessed around them."""
BUDGET_TOLERANCE = 0.1
"""By how much a guess may break the budget and yet be tried, as a share of it."""
RIDGE = 1e-3
MAX_BUDGET_USED = 10.0
"""Shares of the budget beyond say no more than this one does."""


def propose(
    units: Sequence[Assignment], gains: Mapping[Assignment, float], spent: Mapping[Assignment, float]
) -> Assignment | None:
    """Return the assignment, of those not judged yet, that should be the fastest within the budget.

    Its gain is guessed as a sum over units and over the changes of precision between neighbours, what it
    spends as a sum over units (least squares). None: no other should keep the budget.

    `units`: layers that change sides together, in the graph's order. `gains`: of those timed. `spent`:
    share of the budget, of those judged.
    """
    pool = [layers for layers in _pool(units, gains) if layers and layers not in spent]
    if not pool or not gains:
        return None
    sides, known = _sides(pool, units), _sides(list(gains), units)
    guessed = _with_changes(sides) @ _fitted(_with_changes(known), list(gains.values()))
    held = [min(share, MAX_BUDGET_USED) for share in spent.values()]
    keeps = sides @ _fitted(_sides(list(spent), units), held) <= 1 + BUDGET_TOLERANCE
    return pool[int(np.argmax(np.where(keeps, guessed, -np.inf)))] if keeps.any() else None


def union(units: Sequence[Assignment]) -> Assignment:
    """Return the layers of all units."""
    return frozenset[str]().union(*units)


def _pool(units: Sequence[Assignment], gains: Mapping[Assignment, float]) -> list[Assignment]:
    """Return all assignments of few units; of many those in which a run of neighbours or any two change
    sides.
    """
    if len(units) <= MAX_ENUMERATED_UNITS:
        return [union(list(compress(units, bits))) for bits in product((0, 1), repeat=len(units))]
    ends = combinations(range(len(units) + 1), 2)
    moves = [union(units[first:end]) for first, end in ends]
    moves += [one | other for one, other in combinations(units, 2)]
    fastest = sorted(gains, key=lambda layers: -gains[layers])[:EXPANDED_BEST]
    return list(dict.fromkeys(layers ^ move for layers in fastest for move in moves))


def _sides(assignments: Sequence[Assignment], units: Sequence[Assignment]) -> NDArray[np.float64]:
    """Return 1 where a unit is in int8: (assignments, units)."""
    return np.array([[unit <= layers for unit in units] for layers in assignments], np.float64)


def _with_changes(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    changes = [sides[:, a] != sides[:, b] for a, b in pairwise(range(sides.shape[1]))]
    return np.column_stack([np.ones(len(sides)), sides, *changes]).astype(np.float64)


def _fitted(features: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    normal = features.T @ features + RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(normal, features.T @ np.array(values)), np.float64)
