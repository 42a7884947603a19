"""Which layers are worth int8: the fastest assignment within the accuracy budget.

An assignment is the set of layers in int8; the others stay in the graph's float type. Up to
`EXHAUSTIVE` layers every assignment is tried. Beyond, the search starts twice: from all layers, less those
that lose most alone for the work they do, as few as keep the budget; and from none, with the layers that
do most put in as long as the budget is kept. From either it puts single layers in, takes them out and swaps
them, as long as that is faster. Whatever it finds is judged and timed whole, as it would ship; nothing is
added up from single layers.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from calibration.judge import Budget, Quality

EXHAUSTIVE = 4
"""Layers up to which all assignments are tried: 16."""
LIMIT = 48
"""Assignments that are tried beyond one for each layer, before the search stops where it is."""
GAIN = 0.02
"""What int8 must win over the float graph's latency to be worth shipping."""
Assignment = frozenset[str]


@dataclass(frozen=True)
class Tried:
    """An assignment as it was found; one that breaks the budget is not timed."""

    layers: Assignment
    quality: Quality
    spent: float
    """Share of the budget: more than 1 breaks it."""
    latency_ms: float | None
    float_ms: float | None
    least: float = GAIN
    """What it must win."""

    @property
    def gain(self) -> float:
        """Return what is won over the float graph's latency, as a share of it; -inf if not timed."""
        if self.latency_ms is None or self.float_ms is None:
            return float("-inf")
        return 1 - self.latency_ms / self.float_ms

    @property
    def fits(self) -> bool:
        """Whether it may ship: within the budget, and faster by `least` at least."""
        return self.spent <= 1 and self.gain >= self.least


@dataclass(frozen=True)
class Choice:
    """What ships: `best`, or nothing in int8, and why, in a sentence; all that was tried."""

    best: Tried | None
    reason: str
    tried: tuple[Tried, ...]


def choose(
    layers: Sequence[str],
    judge: Callable[[Assignment], Quality],
    time: Callable[[Assignment], tuple[float, float]],
    budget: Budget,
    work: Mapping[str, float],
    thorough: bool = True,
    exhaustive: int = EXHAUSTIVE,
    on_tried: Callable[[int], None] = lambda count: None,
    seconds: float = math.inf,
    least: float = GAIN,
) -> Choice:
    """Return the fastest assignment that fits.

    `judge` and `time` measure one: its quality; its latency and the float graph's, ms. `work`: of each
    layer, in any unit: what int8 may save grows with it. Unless `thorough`, all layers in int8 will do if
    they fit. After so many `seconds` what was found by then will do. `least`: what int8 must win.
    """
    search = _Search(judge, time, budget, work, on_tried, seconds, least)
    everything = frozenset(layers)
    if not layers:
        return Choice(None, "no layer can be quantised", ())
    whole = search.tried(everything)
    if whole.fits and not thorough:
        return Choice(whole, "all layers fit the budget", search.all())
    if len(layers) <= exhaustive:
        for size in range(1, len(layers)):
            for chosen in combinations(layers, size):
                if not search.over:
                    search.tried(frozenset(chosen))
    else:
        for start in search.starts(layers):
            search.improve(start, everything)
    best, reason = search.best(), _reason(whole, search.best(), search, budget)
    if search.cut:
        reason += " (the search was cut short: aerogaze calibrate takes its time)"
    return Choice(best, reason, search.all())


class _Search:
    def __init__(
        self,
        judge: Callable[[Assignment], Quality],
        time: Callable[[Assignment], tuple[float, float]],
        budget: Budget,
        work: Mapping[str, float],
        on_tried: Callable[[int], None],
        seconds: float,
        least: float,
    ) -> None:
        self._judge, self._time, self._budget, self._on_tried = judge, time, budget, on_tried
        self._work, self._end, self.cut = work, clock.monotonic() + seconds, False
        self._least = least
        self._qualities: dict[Assignment, Quality] = {}
        self._known: dict[Assignment, Tried] = {}

    @property
    def over(self) -> bool:
        """Whether the time is up: the search is cut short then."""
        self.cut = self.cut or clock.monotonic() > self._end
        return self.cut

    def tried(self, layers: Assignment) -> Tried:
        """Measure an assignment, once."""
        if layers not in self._known:
            spent = self._spent(layers)
            taken, whole = self._time(layers) if spent <= 1 else (None, None)
            self._known[layers] = Tried(layers, self._qualities[layers], spent, taken, whole, self._least)
        return self._known[layers]

    def _spent(self, layers: Assignment) -> float:
        """Judge an assignment, once, and return the share of the budget that it uses up."""
        if layers not in self._qualities:
            self._qualities[layers] = self._judge(layers)
            self._on_tried(1)
        return self._budget.spent(self._qualities[layers])

    def all(self) -> tuple[Tried, ...]:
        """Return what was tried, in order."""
        return tuple(self._known.values())

    def best(self) -> Tried | None:
        """Return the fastest that fits, as a share of the float graph's latency; of equals the one in
        which more is int8.
        """
        fitting = [tried for tried in self._known.values() if tried.fits]
        return max(fitting, key=lambda tried: (tried.gain, len(tried.layers)), default=None)

    def starts(self, layers: Sequence[str]) -> Iterable[Assignment]:
        """Yield where to begin: all layers but as few as keep the budget; and those that do most."""
        if self._spent(frozenset(layers)) <= 1:
            yield frozenset(layers)
            return
        lost: dict[str, float] = {}
        for layer in layers:
            if self.over:
                return
            lost[layer] = self._spent(frozenset({layer}))
        ranked = sorted(layers, key=lambda layer: lost[layer] / self._work[layer])
        fits, breaks = 0, len(ranked)  # how many of the ranked are in int8
        while breaks - fits > 1 and not self.over:
            middle = (fits + breaks) // 2
            if self._spent(frozenset(ranked[:middle])) <= 1:
                fits = middle
            else:
                breaks = middle
        yield frozenset(ranked[:fits])
        chosen: Assignment = frozenset()
        for layer in sorted(layers, key=lambda layer: -self._work[layer]):
            if lost[layer] <= 1 and not self.over and self._spent(chosen | {layer}) <= 1:
                chosen |= {layer}
        yield chosen

    def improve(self, current: Assignment, everything: Assignment) -> None:
        """Put in, take out and swap single layers as long as the assignment gets faster and fits."""
        limit = len(self._known) + LIMIT
        while current and len(self._known) < limit and not self.over:
            here = self.tried(current)
            near = islice(self._neighbours(current, everything), limit)
            better = next((found for found in near if _beats(found, here)), None)
            if better is None:
                return
            current = better.layers

    def _neighbours(self, current: Assignment, everything: Assignment) -> Iterable[Tried]:
        """Yield what is one step away: more of the layers that do much, fewer of those that do little."""
        outside = sorted(everything - current, key=lambda layer: (-self._work[layer], layer))
        inside = sorted(current, key=lambda layer: (self._work[layer], layer))
        steps = [current | {layer} for layer in outside]
        steps += [current - {layer} for layer in inside if len(inside) > 1]
        steps += [current - {layer} | {out} for out in outside for layer in inside]
        for step in steps:
            if self.over:
                return
            yield self.tried(step)


def _beats(one: Tried, other: Tried) -> bool:
    """Say whether one is better: within the budget the faster, outside it the closer one."""
    if one.spent <= 1 and other.spent <= 1:
        return one.gain > other.gain + 1e-9
    return one.spent < other.spent


def _reason(whole: Tried, best: Tried | None, search: _Search, budget: Budget) -> str:
    if best is not None:
        if best.layers == whole.layers:
            return "all layers fit the budget, and no fewer are faster"
        left = len(whole.layers) - len(best.layers)
        why = "break the budget" if whole.spent > 1 else "are slower in int8 than in float"
        return f"{left} of {len(whole.layers)} layers stay in float: with them the others {why}"
    within = [tried for tried in search.all() if tried.spent <= 1]
    if not within:
        return f"no int8 graph keeps the budget of {budget}: float ships alone"
    gain = max(tried.gain for tried in within)
    return (
        f"no int8 graph within the budget is {GAIN:.0%} faster than float (the best: {gain:+.1%}): "
        "float ships alone"
    )
