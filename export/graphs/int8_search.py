"""Search for the fastest int8 graph of an engine that keeps an accuracy budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx

from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import CPU, TENSORRT, QdqScheme, quantizable_layers
from calibration.ranges.histogram import BEST, Method, MethodChoice
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, Quality, SaliencyMap, compare_maps
from calibration.search.fp16_diagnostics import describe_overflow, describe_weakest_node
from calibration.search.latency_benchmark import LatencyTimer, MeasuredLatency
from calibration.search.latency_model import ModelledLatency, convolution_mmacs
from calibration.search.mixed_precision import (
    MIN_GAIN,
    Measurements,
    SearchResult,
    SearchSettings,
    Trial,
    default_patience,
    find_fastest_assignment,
)
from calibration.search.surrogate_model import Assignment
from edge.core.errors import InputError
from edge.metrics.saliency import max_error
from edge.release.quantization import TensorRanges
from edge.release.release import TargetEngine
from export.graphs.fp16 import float_outputs, to_fp16

DEFAULT_BUDGET = AccuracyBudget(cc=0.005, kld=0.005)
QDQ_SCHEMES: dict[TargetEngine, QdqScheme] = {"onnxruntime": CPU, "tensorrt": TENSORRT}
MAX_SEARCH_WINDOWS = 16
"""Most held-out windows that a search uses. Its result is then evaluated on all of them."""
BUDGET_FRACTIONS = (1.0, 0.8, 0.5)
"""Fractions of the budget that are searched with, in this order. The next one is tried if the graph in the
form that ships exceeds the budget."""
ProgressCallback = Callable[[str, int, int | None], None]
"""Called with the name of a step, the number of units done since the last call, and the total if known."""


def make_timer(
    engine: TargetEngine, model: onnx.ModelProto, evaluator: AccuracyEvaluator, threads: int
) -> LatencyTimer:
    """Return the source of an engine's latencies: measured if the engine runs here, else modelled."""
    if engine == "tensorrt":  # the board that runs it is not at hand during calibration
        return ModelledLatency(model)
    return MeasuredLatency(model, evaluator.feeder, next(iter(evaluator.windows)), threads)


@dataclass(frozen=True)
class CalibrationOptions:
    """Options of a calibration.

    Attributes:
        method: How ranges are chosen.
        budget: Limits for the accuracy loss.
        thorough: Search for a faster mix even if all layers fit in int8.
        threads: Threads of inference that latency is measured with.
        cache: Folder for histograms; None keeps none.
        max_trials: Most graphs that the search of an engine tries; None for the default.
        timer: Returns the source of latencies.
    """

    method: MethodChoice = BEST
    budget: AccuracyBudget = DEFAULT_BUDGET
    thorough: bool = False
    threads: int = 1
    cache: Path | None = None
    max_trials: int | None = None
    timer: Callable[[TargetEngine, onnx.ModelProto, AccuracyEvaluator, int], LatencyTimer] = make_timer


@dataclass(frozen=True)
class Int8Result:
    """Result of the search for one engine.

    Attributes:
        method: Method that the ranges were chosen with.
        latency_kind: "measured" or "modelled".
        search: The trials, the best of them, and the reason.
        model: The graph that ships; None if int8 does not ship.
        quality: Quality of that graph on all held-out windows.
        maps: Its maps on these windows.
        max_error: Largest difference of these maps from those of the fp32 graph.
        conditions: Conditions that latency was measured or modelled under.
    """

    engine: TargetEngine
    method: Method
    ranges: TensorRanges
    latency_kind: str
    search: SearchResult
    model: onnx.ModelProto | None
    quality: Quality | None
    max_error: float | None
    conditions: dict[str, object]
    maps: Sequence[SaliencyMap] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types, without the graph and the ranges."""
        best = self.search.best if self.model is not None else None
        return {
            "engine": self.engine,
            "method": self.method,
            "ships": self.model is not None,
            "reason": self.search.reason,
            "latency": self.latency_kind,
            "conditions": self.conditions,
            "int8_layers": sorted(best.layers) if best else [],
            "quality": dataclasses.asdict(self.quality) if self.quality else None,
            "latency_ms": best.latency_ms if best else None,
            "float_ms": best.float_ms if best else None,
            "sure_gain": best.confirmed_gain if best else None,
            "tried": [_trial_to_dict(trial) for trial in self.search.trials],
        }

    def reject(self, reason: str) -> Int8Result:
        """Return the result with nothing that ships."""
        search = dataclasses.replace(self.search, best=None, reason=f"{reason}: float ships alone")
        return dataclasses.replace(self, search=search, model=None, quality=None, max_error=None, maps=None)


def _trial_to_dict(trial: Trial) -> dict[str, Any]:
    return {
        "int8_layers": sorted(trial.layers),
        **dataclasses.asdict(trial.quality),
        "budget_spent": trial.budget_used,
        "latency_ms": trial.latency_ms,
        "float_ms": trial.float_ms,
        "sure_gain": trial.confirmed_gain,
    }


@dataclass(frozen=True)
class RangeChoice:
    """Ranges of a graph's activations.

    Attributes:
        method: Method that the ranges were chosen with.
        ranges: The ranges.
        extremes: Least and greatest value of each activation, not clipped by the method.
    """

    method: Method
    ranges: TensorRanges
    extremes: TensorRanges


class EngineSearch:
    """Search over the layers that an engine computes in int8."""

    def __init__(
        self,
        engine: TargetEngine,
        model: onnx.ModelProto,
        choice: RangeChoice,
        evaluator: AccuracyEvaluator,
        options: CalibrationOptions,
        on_progress: ProgressCallback,
    ) -> None:
        """Prepare a search.

        Args:
            engine: The engine.
            model: The fp32 graph.
            choice: Ranges of the activations.
            evaluator: Compares maps with those of the fp32 graph on the held-out windows.
            options: Options of the calibration.
            on_progress: Called for each trial.
        """
        self._engine, self._model = engine, model
        self._method, self._ranges, self._extremes = choice.method, choice.ranges, choice.extremes
        self._evaluator, self._options, self._on_progress = evaluator, options, on_progress
        self._scheme = QDQ_SCHEMES[engine]
        # ONNX Runtime evaluates graphs for TensorRT, but must not fuse their Q/DQ nodes in its own way.
        self._is_tensorrt = engine == "tensorrt"
        self._layers = quantizable_layers(model, self._scheme)
        self._layer_work = convolution_mmacs(model)
        self._quantize = lru_cache(maxsize=1)(self._make_graph)  # each graph is evaluated and then timed
        self._timer = options.timer(engine, model, evaluator, options.threads)
        self._conditions = self._timer.conditions()
        self._subset = evaluator.subset(model, MAX_SEARCH_WINDOWS)

    def run(self) -> Int8Result:
        """Return the fastest graph that keeps the budget in the form that ships, or the reason for none."""
        budget = self._options.budget
        for fraction in BUDGET_FRACTIONS:
            search = rescore(self._search(fraction), budget)
            if search.best is None:
                if fraction == BUDGET_FRACTIONS[0]:
                    return self._result(search)
                break
            for graph, rest in self._shipped_forms(search.best):
                maps = self._evaluator.compute_maps(graph, self._is_tensorrt)
                quality = compare_maps(maps, self._evaluator.expected)
                if budget.fraction_used(quality) <= 1:
                    shipped = self._result(self._explain(search, search.best, rest), graph, quality)
                    error = max(map(max_error, maps, self._evaluator.expected))
                    return dataclasses.replace(shipped, max_error=error, maps=maps)
        # A search over part of the layers passed, but its graph exceeds the budget on all held-out windows.
        return self._result(search).reject(f"the int8 graph that would ship exceeds the budget of {budget}")

    def _search(self, fraction: float) -> SearchResult:
        options, step = self._options, f"int8 for {self._engine}"
        self._on_progress(step, 0, None)
        return find_fastest_assignment(
            self._layers,
            self._layer_work,
            Measurements(
                quality=lambda layers: self._subset(self._quantize(layers), self._is_tensorrt),
                latency=lambda layers: self._timer(self._quantize(layers)),
                confirm=lambda layers: self._timer.confirm(self._quantize(layers)),
                layer_gains=lambda layers: self._timer.layer_gains(self._quantize(layers)),
            ),
            SearchSettings(
                budget=scale_budget(options.budget, fraction),
                thorough=options.thorough,
                max_trials=options.max_trials,
                # A model of a board may be wrong. The board measures each precision that it is offered.
                min_gain=-math.inf if self._timer.kind == "modelled" else MIN_GAIN,
                patience=default_patience(sum(self._layer_work.values())),
            ),
            lambda trials: self._on_progress(step, trials, None),
        )

    def _make_graph(self, layers: Assignment) -> onnx.ModelProto:
        return quantize(self._model, self._ranges, self._scheme, layers)

    def _shipped_forms(self, trial: Trial) -> Iterator[tuple[onnx.ModelProto, str]]:
        """Yield the graph in the forms in which it may ship, the best one first, with why the others do not.

        For TensorRT, the layers that are not in int8 are in float16, or in float32 where float16 fails.
        """
        graph = self._quantize(trial.layers)
        if not self._is_tensorrt:
            yield graph, ""
            return
        feeder = self._evaluator.feeder
        try:
            half = to_fp16(graph, [*feeder.inputs, *float_outputs(self._model, feeder)])
        except InputError as error:
            reason = str(error)
        else:
            overflow = describe_overflow(half, self._extremes)
            if overflow is None:
                yield half, ""
            reason = overflow or describe_weakest_node(half, feeder, self._subset.windows, True)
        yield graph, f"; its other layers are in float32 ({reason})"

    def _explain(self, search: SearchResult, best: Trial, rest: str) -> SearchResult:
        """Return the search with what is to be known about the graph that ships."""
        gain = (
            f"; modelled gain {best.gain:+.1%}, boards measure it" if self._timer.kind == "modelled" else ""
        )
        return dataclasses.replace(search, reason=f"{search.reason}{gain}{rest}")

    def _result(
        self, search: SearchResult, model: onnx.ModelProto | None = None, quality: Quality | None = None
    ) -> Int8Result:
        return Int8Result(
            engine=self._engine,
            method=self._method,
            ranges=self._ranges,
            latency_kind=self._timer.kind,
            search=search,
            model=model,
            quality=quality,
            max_error=None,
            conditions=self._conditions,
        )


def rescore(search: SearchResult, budget: AccuracyBudget) -> SearchResult:
    """Return a search whose trials state the used fraction of `budget`, not of the part searched with."""

    def rescore_trial(trial: Trial) -> Trial:
        return dataclasses.replace(trial, budget_used=budget.fraction_used(trial.quality))

    best = None if search.best is None else rescore_trial(search.best)
    return dataclasses.replace(search, best=best, trials=tuple(map(rescore_trial, search.trials)))


def scale_budget(budget: AccuracyBudget, fraction: float) -> AccuracyBudget:
    """Return a fraction of a budget; a limit that is not set stays so."""
    return AccuracyBudget(budget.cc and budget.cc * fraction, budget.kld and budget.kld * fraction)
