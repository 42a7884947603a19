"""Which layers are worth int8: the fastest assignment within the accuracy budget.

An assignment is the set of layers in int8; the others stay in the graph's float type. Up to
`MAX_EXHAUSTIVE_LAYERS` layers every assignment is tried. Beyond, layers are ranked: by what each loses alone, by the
work it does, and by the one for the other. In each of these orders as many as keep the budget are put in.
From there on a linear model of all that was found says what to try next
(`calibration/search/surrogate_model.py`), until
`PATIENCE` tries were in vain. Whatever is found is judged and timed whole, as it would ship. What ships is
then timed again by itself, for the luckiest of many timings is not the fastest.

A search is bounded by the graphs that it may try, not by time, so that it ends alike on a busy machine.
Where they do not suffice to rank each layer, runs of neighbours are ranked and moved as one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from calibration.search.accuracy import AccuracyBudget, Quality
from calibration.search.latency_benchmark import ConfirmedLatency
from calibration.search.surrogate_model import Assignment, propose, union

MAX_EXHAUSTIVE_LAYERS = 6
"""Layers up to which all assignments are tried: 63."""
FINALISTS = 3
"""How many of the fastest may be timed again by themselves, until one wins for sure."""
MIN_GAIN = 0.02
"""What int8 must win over the float graph's latency to be worth shipping."""
PATIENCE = 80
"""Guesses in vain, one after the other, that end a search."""
SLACK = 1.5
"""Losses of layers hardly add up to less than this part of their sum: what is beyond is not tried."""


@dataclass(frozen=True)
class Trial:
    """An assignment as it was found; one that breaks the budget is not timed."""

    layers: Assignment
    quality: Quality
    spent: float
    """Share of the budget: more than 1 breaks it."""
    latency_ms: float | None
    float_ms: float | None
    min_gain: float = MIN_GAIN
    """What it must win."""
    confirmed_gain: float | None = None
    """What it wins at min_gain, timed again by itself; None: it was not."""

    @property
    def gain(self) -> float:
        """Return what is won over the float graph's latency, as a share of it; -inf if not timed."""
        if self.latency_ms is None or self.float_ms is None:
            return float("-inf")
        return 1 - self.latency_ms / self.float_ms

    @property
    def fits(self) -> bool:
        """Whether it may ship: within the budget, and faster by `min_gain` at least, as far as is known."""
        surely = self.gain if self.confirmed_gain is None else min(self.gain, self.confirmed_gain)
        return self.spent <= 1 and surely >= self.min_gain


@dataclass(frozen=True)
class SearchResult:
    """What ships: `best`, or nothing in int8, and why, in a sentence; all that was tried."""

    best: Trial | None
    reason: str
    trials: tuple[Trial, ...]


def default_trials(layers: int) -> int:
    """Return how many graphs a search of so many layers may try that nobody bounds."""
    return 200 + 4 * layers


def find_fastest_assignment(
    layers: Sequence[str],
    judge: Callable[[Assignment], Quality],
    time: Callable[[Assignment], tuple[float, float]],
    budget: AccuracyBudget,
    work: Mapping[str, float],
    thorough: bool = True,
    exhaustive: int = MAX_EXHAUSTIVE_LAYERS,
    on_tried: Callable[[int], None] = lambda count: None,
    tries: int | None = None,
    min_gain: float = MIN_GAIN,
    again: Callable[[Assignment], ConfirmedLatency] | None = None,
) -> SearchResult:
    """Return the fastest assignment that fits.

    `layers`: in the graph's order. `judge` and `time` measure one: its quality; its latency and the float
    graph's, ms. `work`: of each layer, in any unit: what int8 may save grows with it. Unless `thorough`,
    all layers in int8 will do if they fit. `tries`: how many graphs may be judged; None: `default_trials`. `min_gain`:
    what int8 must win. `again`: times what would ship once more, by itself; None: `time` is exact.
    """
    if not layers:
        return SearchResult(None, "no layer can be quantised", ())
    tries = default_trials(len(layers)) if tries is None else tries
    search = _AssignmentSearch(judge, time, budget, work, on_tried, tries, min_gain, again)
    everything = frozenset(layers)
    if search.tried(everything).fits and not thorough and search.proven(everything).fits:
        return SearchResult(search.tried(everything), "all layers fit the budget", search.all())
    complete = len(layers) <= exhaustive and 2 ** len(layers) - 1 <= tries
    if complete:
        for size in range(1, len(layers)):
            for chosen in combinations(layers, size):
                search.tried(frozenset(chosen))
    else:
        search.explore(layers)
    best = search.best()
    return SearchResult(best, _reason(search, everything, best, budget, complete), search.all())


class _AssignmentSearch:
    def __init__(
        self,
        judge: Callable[[Assignment], Quality],
        time: Callable[[Assignment], tuple[float, float]],
        budget: AccuracyBudget,
        work: Mapping[str, float],
        on_tried: Callable[[int], None],
        tries: int,
        min_gain: float,
        again: Callable[[Assignment], ConfirmedLatency] | None,
    ) -> None:
        self._judge, self._time, self._budget, self._on_tried = judge, time, budget, on_tried
        self._work, self._tries, self._min_gain, self._again = work, tries, min_gain, again
        self._qualities: dict[Assignment, Quality] = {}
        self._known: dict[Assignment, Trial] = {}
        self._lost: dict[Assignment, float] = {}
        self.cut = False

    @property
    def judged(self) -> int:
        """How many graphs were."""
        return len(self._qualities)

    def tried(self, layers: Assignment) -> Trial:
        """Measure an assignment, once."""
        if layers not in self._known:
            spent = self._spent(layers)
            taken, whole = self._time(layers) if spent <= 1 else (None, None)
            self._known[layers] = Trial(layers, self._qualities[layers], spent, taken, whole, self._min_gain)
        return self._known[layers]

    def proven(self, layers: Assignment) -> Trial:
        """Time an assignment again by itself, once, and keep what was found then."""
        found = self.tried(layers)
        if self._again is not None and found.confirmed_gain is None:
            sure = self._again(layers)
            found = dataclasses.replace(
                found, latency_ms=sure.candidate_ms, float_ms=sure.float_ms, confirmed_gain=sure.gain
            )
            self._known[layers] = found
        return found

    def all(self) -> tuple[Trial, ...]:
        """Return what was tried, in order."""
        return tuple(self._known.values())

    def best(self) -> Trial | None:
        """Return the fastest that fits, for sure; of equals the one in which more is int8."""
        fitting = [tried for tried in self._known.values() if tried.fits]
        fitting.sort(key=lambda tried: (tried.gain, len(tried.layers)), reverse=True)
        finalists = (self.proven(tried.layers) for tried in fitting[:FINALISTS])
        return next((tried for tried in finalists if tried.fits), None)

    def explore(self, layers: Sequence[str]) -> None:
        """Rank layers, try what each order offers, and then what is promising by all that was found."""
        units = self._ranked(layers)
        for rank in (self._loss_for_work, self._lost.__getitem__, lambda unit: -self._does(unit)):
            if chosen := self._filled(sorted(units, key=rank)):
                self.tried(chosen)
        vain = 0
        while vain < PATIENCE:
            gains = {layers: tried.gain for layers, tried in self._known.items() if tried.spent <= 1}
            spent = {layers: self._spent(layers) for layers in self._qualities}
            step = propose(units, gains, spent)
            if step is None or not self._open(step):
                return
            vain = (
                0 if self.tried(step).gain > max(gains.values(), default=float("-inf")) + 1e-9 else vain + 1
            )

    def _open(self, layers: Assignment) -> bool:
        """Say whether an assignment may be judged: it was, or not all tries are used up."""
        if layers in self._qualities or self.judged < self._tries:
            return True
        self.cut = True
        return False

    def _spent(self, layers: Assignment) -> float:
        """Judge an assignment, once, and return the share of the budget that it uses up."""
        if layers not in self._qualities:
            self._qualities[layers] = self._judge(layers)
            self._on_tried(1)
        return self._budget.fraction_used(self._qualities[layers])

    def _does(self, unit: Assignment) -> float:
        return sum(self._work[layer] for layer in unit)

    def _loss_for_work(self, unit: Assignment) -> float:
        return self._lost[unit] / self._does(unit)

    def _ranked(self, layers: Sequence[str]) -> list[Assignment]:
        """Judge each layer alone, or each of as many runs of neighbours as half of the tries can judge."""
        size = -(-len(layers) // max(1, (self._tries - self.judged) // 2))
        self.cut = size > 1
        units = [frozenset(layers[at : at + size]) for at in range(0, len(layers), size)]
        for unit in units:
            if self._open(unit):
                self._lost[unit] = self._spent(unit)
        return [unit for unit in units if unit in self._lost]

    def _filled(self, order: Sequence[Assignment]) -> Assignment:
        """Put in as many of the first as keep the budget, then what else keeps it."""
        fits, breaks = 0, len(order) + 1  # how many of the first are in int8
        while breaks - fits > 1 and self._open(first := union(order[: (fits + breaks) // 2])):
            middle = (fits + breaks) // 2
            fits, breaks = (middle, breaks) if self._spent(first) <= 1 else (fits, middle)
        chosen = union(order[:fits])
        for unit in order[fits:]:
            room = SLACK * (1 - self._spent(chosen)) if chosen else 1
            more = chosen | unit
            if self._lost[unit] <= room and self._open(more) and self._spent(more) <= 1:
                chosen = more
        return chosen


def _reason(
    search: _AssignmentSearch,
    everything: Assignment,
    best: Trial | None,
    budget: AccuracyBudget,
    complete: bool,
) -> str:
    count = f"{search.judged} graphs" if search.judged > 1 else "1 graph"
    early = f" ({count} tried, search ended early)" if search.cut else ""
    whole = search.tried(everything)
    if best is not None:
        if best.layers == everything:
            return f"all layers fit the budget, and no fewer are faster{early}"
        left = len(everything) - len(best.layers)
        why = "break the budget" if whole.spent > 1 else "are slower in int8 than in float"
        return f"{left} of {len(everything)} layers stay in float: with them the others {why}{early}"
    none = "no int8 graph" if complete else "none of the int8 graphs tried"
    within = [tried for tried in search.all() if tried.spent <= 1]
    if not within:
        return f"{none} keeps the budget of {budget}: float ships alone{early}"
    again = [tried for tried in within if tried.confirmed_gain is not None]
    if again:
        surely = max(tried.confirmed_gain or 0.0 for tried in again)
        return (
            f"timed again, no int8 graph is sure to be {MIN_GAIN:.0%} faster than float (the best: at least "
            f"{surely:+.1%}): float ships alone{early}"
        )
    gain = max(tried.gain for tried in within)
    return (
        f"{none} within the budget is {MIN_GAIN:.0%} faster than float (the best: {gain:+.1%}): "
        f"float ships alone{early}"
    )
