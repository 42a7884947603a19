"""Search for the fastest set of int8 layers within an accuracy budget.

An assignment is the set of layers in int8; the others stay in the graph's float type.

- Up to `MAX_EXHAUSTIVE_LAYERS` layers, every assignment is tried.
- With more layers, if not all of them together keep the budget, layers are ranked three times: by the loss
  that each causes alone, by its work, and by the ratio of both. In each order, as many layers are put in int8
  as the budget allows. After that a surrogate model of all measurements
  (`calibration/search/surrogate_model.py`) proposes assignments, until several proposals in a row brought no
  improvement (`default_patience`).

Each assignment is evaluated and timed as a whole graph, as it would ship. The graph that ships is timed
again on its own, because the luckiest of many timings does not belong to the fastest graph.

The number of graphs limits a search, not the time, so that the result is the same on a busy machine. If the
limit does not suffice to rank every layer, runs of neighbouring layers are ranked and switched as one unit.
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
"""Number of layers up to which all assignments are tried: 63 of them."""
FINALISTS = 3
"""Number of fastest assignments that may be timed again until one has a confirmed gain."""
MIN_GAIN = 0.02
"""Fraction of the float graph's latency that int8 must save to be worth shipping."""
MIN_PATIENCE, MAX_PATIENCE = 10, 80
"""Least and greatest number of proposals in a row without improvement that ends a search."""
PATIENCE_MMACS = 32_000
"""Cost of these proposals, in 1e6 multiply-accumulates of convolutions of one run each.

It corresponds to `MAX_PATIENCE` proposals of skd-128. A proposal is evaluated and timed in tens of runs.
"""
LOSS_SLACK = 1.5
"""Losses of layers add up to hardly less than their sum divided by this; larger sums are not tried."""


@dataclass(frozen=True)
class Trial:
    """A measured assignment.

    Attributes:
        layers: The layers in int8.
        quality: Quality of the graph's maps.
        budget_used: Fraction of the budget used; more than 1 exceeds the budget.
        latency_ms: Latency of the graph; None if it was not timed because it exceeds the budget.
        float_ms: Latency of the float graph, timed together with this graph; None if it was not timed.
        min_gain: Gain that is required to ship.
        confirmed_gain: Lower bound of the gain, timed again on its own; None if it was not timed again.
    """

    layers: Assignment
    quality: Quality
    budget_used: float
    latency_ms: float | None
    float_ms: float | None
    min_gain: float = MIN_GAIN
    confirmed_gain: float | None = None

    @property
    def gain(self) -> float:
        """The time saved as a fraction of the float graph's latency; -inf if the graph was not timed."""
        if self.latency_ms is None or self.float_ms is None:
            return float("-inf")
        return 1 - self.latency_ms / self.float_ms

    @property
    def fits(self) -> bool:
        """True if the graph may ship as far as known: within the budget and faster by `min_gain`."""
        gain = self.gain if self.confirmed_gain is None else min(self.gain, self.confirmed_gain)
        return self.budget_used <= 1 and gain >= self.min_gain


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        best: The assignment that ships; None if no int8 graph does.
        reason: The reason for this result, one sentence.
        trials: All measured assignments in order.
    """

    best: Trial | None
    reason: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Measurements:
    """Functions that measure the graph of an assignment.

    Attributes:
        quality: Returns the quality of the graph's maps.
        latency: Returns the latency of the graph and of the float graph, ms.
        confirm: Times the graph again on its own; None if `latency` is exact.
        layer_gains: Returns the time that each node saves by itself in the graph, as a fraction of the float
            graph's latency. The sum of what is saved estimates the best gain from above. None if unknown.
    """

    quality: Callable[[Assignment], Quality]
    latency: Callable[[Assignment], tuple[float, float]]
    confirm: Callable[[Assignment], ConfirmedLatency] | None = None
    layer_gains: Callable[[Assignment], Mapping[str, float] | None] = lambda layers: None


@dataclass(frozen=True)
class SearchSettings:
    """Goal and limits of a search.

    Attributes:
        budget: Limits for the accuracy loss.
        thorough: Search even if all layers in int8 fit.
        max_trials: Limit for the evaluated graphs; None for `default_trials`.
        min_gain: Gain that is required to ship.
        max_exhaustive_layers: Number of layers up to which all assignments are tried.
        patience: Number of proposals in a row without improvement that ends the search; a third of it if the
            search starts from the layers' own times.
    """

    budget: AccuracyBudget
    thorough: bool = True
    max_trials: int | None = None
    min_gain: float = MIN_GAIN
    max_exhaustive_layers: int = MAX_EXHAUSTIVE_LAYERS
    patience: int = MAX_PATIENCE


def default_trials(layers: int) -> int:
    """Return the limit for the evaluated graphs of a search over this number of layers."""
    return 200 + 4 * layers


def default_patience(mmacs: float) -> int:
    """Return the patience of a search over a graph; a costly graph gets fewer proposals.

    Args:
        mmacs: Multiply-accumulates of the graph's convolutions in one run, in units of 1e6.
    """
    return min(MAX_PATIENCE, max(MIN_PATIENCE, int(PATIENCE_MMACS / max(mmacs, 1))))


def find_fastest_assignment(
    layers: Sequence[str],
    layer_work: Mapping[str, float],
    measurements: Measurements,
    settings: SearchSettings,
    on_trial: Callable[[int], None] = lambda count: None,
) -> SearchResult:
    """Return the fastest assignment that keeps the budget and gains enough.

    Args:
        layers: Names of the layers, in graph order.
        layer_work: Work of each layer in any unit. The time that int8 may save grows with it.
        measurements: Measures the graph of an assignment.
        settings: Goal and limits of the search.
        on_trial: Called with 1 after each evaluated graph.
    """
    if not layers:
        return SearchResult(None, "no layer can be quantized", ())
    search = _AssignmentSearch(layers, layer_work, measurements, settings, on_trial)
    all_layers = frozenset(layers)
    if search.measure(all_layers).fits and not settings.thorough and search.confirm(all_layers).fits:
        return SearchResult(search.measure(all_layers), "all layers fit the budget", search.trials())
    is_exhaustive = (
        len(layers) <= settings.max_exhaustive_layers and 2 ** len(layers) - 1 <= search.max_trials
    )
    if is_exhaustive:
        for size in range(1, len(layers)):
            for subset in combinations(layers, size):
                search.measure(frozenset(subset))
    else:
        search.explore()
    best = search.best()
    return SearchResult(best, _reason(search, best, is_exhaustive), search.trials())


class _AssignmentSearch:
    """Measures assignments once each, and explores them within the limit of trials."""

    def __init__(
        self,
        layers: Sequence[str],
        layer_work: Mapping[str, float],
        measurements: Measurements,
        settings: SearchSettings,
        on_trial: Callable[[int], None],
    ) -> None:
        self.layers, self.settings = layers, settings
        self.max_trials = default_trials(len(layers)) if settings.max_trials is None else settings.max_trials
        self.ended_early = False
        self._layer_work, self._measurements, self._on_trial = layer_work, measurements, on_trial
        self._qualities: dict[Assignment, Quality] = {}
        self._trials: dict[Assignment, Trial] = {}
        self._unit_losses: dict[Assignment, float] = {}

    @property
    def evaluated(self) -> int:
        """The number of graphs evaluated so far."""
        return len(self._qualities)

    def measure(self, layers: Assignment) -> Trial:
        """Evaluate an assignment, and time it if it keeps the budget; once each."""
        if layers not in self._trials:
            used = self._budget_used(layers)
            latency_ms, float_ms = self._measurements.latency(layers) if used <= 1 else (None, None)
            self._trials[layers] = Trial(
                layers, self._qualities[layers], used, latency_ms, float_ms, self.settings.min_gain
            )
        return self._trials[layers]

    def confirm(self, layers: Assignment) -> Trial:
        """Time an assignment again on its own, once, and keep the new latency."""
        trial = self.measure(layers)
        if self._measurements.confirm is not None and trial.confirmed_gain is None:
            latency = self._measurements.confirm(layers)
            trial = dataclasses.replace(
                trial,
                latency_ms=latency.candidate_ms,
                float_ms=latency.float_ms,
                confirmed_gain=latency.gain,
            )
            self._trials[layers] = trial
        return trial

    def trials(self) -> tuple[Trial, ...]:
        """Return all measured assignments in order."""
        return tuple(self._trials.values())

    def best(self) -> Trial | None:
        """Return the fastest assignment with a confirmed fit; of equals the one with more int8 layers."""
        fitting = [trial for trial in self._trials.values() if trial.fits]
        fitting.sort(key=lambda trial: (trial.gain, len(trial.layers)), reverse=True)
        finalists = (self.confirm(trial.layers) for trial in fitting[:FINALISTS])
        return next((trial for trial in finalists if trial.fits), None)

    def explore(self) -> None:
        """Rank the units, try the best assignment of each order, then what the surrogate model proposes.

        If all layers together keep the budget, so does nearly every part of them, and no ranking is needed.
        The layers that are faster in int8 by themselves are tried, and nothing more if even they cannot save
        enough.
        """
        patience = self.settings.patience
        all_layers = frozenset(self.layers)
        if self.measure(all_layers).budget_used <= 1:
            units = [frozenset({layer}) for layer in self.layers]
            if (saved := self._measurements.layer_gains(all_layers)) is not None:
                faster = frozenset(layer for layer in self.layers if saved.get(layer, 0.0) > 0)
                if faster and self._may_evaluate(faster):
                    self.measure(faster)
                if sum(gain for gain in saved.values() if gain > 0) < self.settings.min_gain:
                    return
                patience = -(-patience // 3)  # with TinyHD-S, 14 proposals led from a gain of 2 % to 6 %
        else:
            units = self._rank_units()
            for rank in (self._loss_per_work, self._unit_losses.__getitem__, lambda unit: -self._work(unit)):
                if assignment := self._fill_budget(sorted(units, key=rank)):
                    self.measure(assignment)
        without_improvement = 0
        while without_improvement < patience:
            gains = {layers: trial.gain for layers, trial in self._trials.items() if trial.budget_used <= 1}
            budget_used = {layers: self._budget_used(layers) for layers in self._qualities}
            proposal = propose(units, gains, budget_used)
            if proposal is None or not self._may_evaluate(proposal):
                return
            is_better = self.measure(proposal).gain > max(gains.values(), default=float("-inf")) + 1e-9
            without_improvement = 0 if is_better else without_improvement + 1

    def _may_evaluate(self, layers: Assignment) -> bool:
        """Return whether an assignment is evaluated already or the limit allows one more."""
        if layers in self._qualities or self.evaluated < self.max_trials:
            return True
        self.ended_early = True
        return False

    def _budget_used(self, layers: Assignment) -> float:
        """Evaluate an assignment, once, and return the fraction of the budget that it uses."""
        if layers not in self._qualities:
            self._qualities[layers] = self._measurements.quality(layers)
            self._on_trial(1)
        return self.settings.budget.fraction_used(self._qualities[layers])

    def _work(self, unit: Assignment) -> float:
        return sum(self._layer_work[layer] for layer in unit)

    def _loss_per_work(self, unit: Assignment) -> float:
        return self._unit_losses[unit] / self._work(unit)

    def _rank_units(self) -> list[Assignment]:
        """Evaluate each unit alone, and return the units evaluated.

        A unit is one layer, or a run of neighbours if half of the remaining trials do not suffice.
        """
        size = -(-len(self.layers) // max(1, (self.max_trials - self.evaluated) // 2))
        self.ended_early = size > 1
        units = [frozenset(self.layers[at : at + size]) for at in range(0, len(self.layers), size)]
        for unit in units:
            if self._may_evaluate(unit):
                self._unit_losses[unit] = self._budget_used(unit)
        return [unit for unit in units if unit in self._unit_losses]

    def _fill_budget(self, order: Sequence[Assignment]) -> Assignment:
        """Return as many of the first units as keep the budget, and later units that still fit."""
        fits, exceeds = 0, len(order) + 1  # bisection over the number of first units in int8
        while exceeds - fits > 1 and self._may_evaluate(first := union(order[: (fits + exceeds) // 2])):
            middle = (fits + exceeds) // 2
            fits, exceeds = (middle, exceeds) if self._budget_used(first) <= 1 else (fits, middle)
        assignment = union(order[:fits])
        for unit in order[fits:]:
            room = LOSS_SLACK * (1 - self._budget_used(assignment)) if assignment else 1
            extended = assignment | unit
            if (
                self._unit_losses[unit] <= room
                and self._may_evaluate(extended)
                and self._budget_used(extended) <= 1
            ):
                assignment = extended
        return assignment


def _reason(search: _AssignmentSearch, best: Trial | None, is_exhaustive: bool) -> str:
    """Return the sentence that explains the result of a search."""
    count = f"{search.evaluated} graphs" if search.evaluated > 1 else "1 graph"
    early = f" ({count} tried, search ended early)" if search.ended_early else ""
    everything = search.measure(frozenset(search.layers))
    if best is not None:
        if best.layers == everything.layers:
            return f"all layers fit the budget, and no fewer are faster{early}"
        left = len(search.layers) - len(best.layers)
        cause = "exceed the budget" if everything.budget_used > 1 else "are slower in int8 than in float"
        return f"{left} of {len(search.layers)} layers stay in float: with them the others {cause}{early}"
    none = "no int8 graph" if is_exhaustive else "none of the int8 graphs tried"
    within = [trial for trial in search.trials() if trial.budget_used <= 1]
    if not within:
        return f"{none} keeps the budget of {search.settings.budget}: float ships alone{early}"
    confirmed = [trial.confirmed_gain for trial in within if trial.confirmed_gain is not None]
    if confirmed:
        return (
            f"timed again, no int8 graph is confirmed to be {MIN_GAIN:.0%} faster than float (the best, in "
            f"its worst round: {max(confirmed):+.1%}): float ships alone{early}"
        )
    gain = max(trial.gain for trial in within)
    return (
        f"{none} within the budget is {MIN_GAIN:.0%} faster than float (the best: {gain:+.1%}): "
        f"float ships alone{early}"
    )
