"""The int8 graphs of a float one: proven in accuracy and in latency, or not shipped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from calibration.inputs import distribution_shift as familiar
from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import Feeding
from calibration.quantization.qdq import places, quantise
from calibration.quantization.qdq_placement import CPU, TENSORRT, Flavour, quantisable
from calibration.ranges.activation_ranges import count
from calibration.ranges.histogram import Method
from calibration.search.accuracy import Budget, Judge, Quality
from calibration.search.fp16_diagnostics import overflow, weakest
from calibration.search.latency_benchmark import Measured, Timer
from calibration.search.latency_model import Modelled, work
from calibration.search.method_selection import BEST, Choosing, ranges_by, ranked
from calibration.search.mixed_precision import GAIN, Choice, Tried, choose
from calibration.search.surrogate_model import Assignment
from edge.release.manifest import Form, TargetEngine
from edge.release.quantization import QuantizationRecord, TensorRanges
from export.graphs.fp16 import to_fp16

DEFAULT_BUDGET = Budget(cc=0.005, kld=0.005)
"""What int8 may lose unless told otherwise."""
QDQ_SCHEMES: dict[TargetEngine, Flavour] = {"onnxruntime": CPU, "tensorrt": TENSORRT}
MAX_SEARCH_WINDOWS = 16
"""Windows at most, of those held out, that the search is judged on; what it finds is then judged on all."""
BUDGET_FRACTIONS = (1.0, 0.8, 0.5)
"""Shares of the budget that the search is given in turn, should the graph as it ships still break it."""
Step = Callable[[str, int, int | None], None]
"""Told what is done, how many of it more, and of how many if that is known."""


def make_timer(engine: TargetEngine, model: onnx.ModelProto, judge: Judge, threads: int) -> Timer:
    """Return what tells an engine's latency: measured where it can run here, else modelled."""
    if engine == "tensorrt":
        return Modelled(model)
    return Measured(model, judge.feeding, next(iter(judge.windows)), threads)


@dataclass(frozen=True)
class CalibrationOptions:
    """How to calibrate. `thorough`: look for a faster mix even where all layers in int8 fit. `tries`:
    graphs that a search may try, for each engine; None: plenty. `offer`: where latency is only modelled,
    ship int8 that keeps the budget all the same, for boards to measure. `timer`: what tells latencies.
    """

    method: Choosing = BEST
    budget: Budget = DEFAULT_BUDGET
    thorough: bool = False
    threads: int = 1
    cache: Path | None = None
    tries: int | None = None
    offer: bool = False
    timer: Callable[[TargetEngine, onnx.ModelProto, Judge, int], Timer] = make_timer


@dataclass(frozen=True)
class Int8Result:
    """What came out for an engine: the graph that ships, or None, with what was found and why."""

    engine: TargetEngine
    method: Method
    ranges: TensorRanges
    latency: str
    """"measured" or "modelled"."""
    choice: Choice
    model: onnx.ModelProto | None
    quality: Quality | None
    conditions: dict[str, object]

    def document(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        best = self.choice.best if self.model is not None else None
        return {
            "engine": self.engine,
            "method": self.method,
            "ships": self.model is not None,
            "reason": self.choice.reason,
            "latency": self.latency,
            "conditions": self.conditions,
            "int8_layers": sorted(best.layers) if best else [],
            "quality": dataclasses.asdict(self.quality) if self.quality else None,
            "latency_ms": best.latency_ms if best else None,
            "float_ms": best.float_ms if best else None,
            "sure_gain": best.sure_gain if best else None,
            "tried": [_tried(tried) for tried in self.choice.tried],
        }


def _tried(tried: Tried) -> dict[str, Any]:
    return {
        "int8_layers": sorted(tried.layers),
        **dataclasses.asdict(tried.quality),
        "budget_spent": tried.spent,
        "latency_ms": tried.latency_ms,
        "float_ms": tried.float_ms,
        "sure_gain": tried.sure_gain,
    }


@dataclass(frozen=True)
class CalibrationResult:
    """Where a float graph's ranges place Q/DQ if all layers are in int8, and what came of them."""

    quantisation: QuantizationRecord
    int8: tuple[Int8Result, ...]
    doubts: tuple[str, ...]
    extremes: TensorRanges
    """The least and greatest value of each activation, whatever the method clips."""

    @property
    def method(self) -> str:
        """Return the method of the ranges; of each engine's, where they differ."""
        return ", ".join(dict.fromkeys(one.method for one in self.int8))

    @property
    def ranges(self) -> TensorRanges:
        """Return the ranges for TensorRT."""
        return next(one.ranges for one in self.int8 if one.engine == "tensorrt")


def build_int8_graphs(
    model: onnx.ModelProto,
    feeding: Feeding,
    frames: CalibrationFrames,
    statistics: familiar.Statistics,
    options: CalibrationOptions,
    on_step: Step = lambda what, more, total: None,
    trained: TensorRanges | None = None,
) -> CalibrationResult:
    """Find ranges, and for each engine the fastest int8 graph that keeps the budget.

    `trained`: ranges that the network was trained through, which stay.

    Raises:
        InputError: activations or maps that are not finite.
    """
    on_step("ranges", 0, len(frames.windows))
    counted = count(model, feeding, frames, options.cache, lambda more: on_step("ranges", more, None))
    kept = trained or {}
    by = {
        method: {name: kept.get(name, found) for name, found in ranges.items()}
        for method, ranges in ranges_by(options.method, counted).items()
    }
    doubt = familiar.doubt(familiar.shift(model, feeding, frames.windows, statistics))
    judge = Judge(model, feeding, frames.held_out)
    extremes = {name: (float(found.low), float(found.high)) for name, found in counted.items()}
    made = []
    for engine in QDQ_SCHEMES:
        on_step(f"ranges for {engine}", 0, None)
        method = select_method(engine, model, by, frames, judge, options.budget)
        made.append(_bearing(_int8(engine, model, method, by[method], judge, options, on_step), extremes))
    placed = QuantizationRecord(
        tuple(value.name for value in model.graph.input),
        tuple(value.name for value in model.graph.output),
        {one.engine: places(model, one.ranges, QDQ_SCHEMES[one.engine]) for one in made},
    )
    return CalibrationResult(placed, tuple(made), frames.doubts + ((doubt,) if doubt else ()), extremes)


def select_method(
    engine: TargetEngine,
    model: onnx.ModelProto,
    by: Mapping[Method, TensorRanges],
    frames: CalibrationFrames,
    judge: Judge,
    budget: Budget,
) -> Method:
    """Return the first method, by rank, whose ranges let all layers keep the budget on the frames held out;
    if none does, that which breaks it least.
    """
    flavour, plain = QDQ_SCHEMES[engine], engine == "tensorrt"
    if len(by) == 1:
        return next(iter(by))
    spent: dict[Method, float] = {}
    for method in ranked(by, model, judge.feeding, frames.windows, flavour, plain):
        spent[method] = budget.spent(judge(quantise(model, by[method], flavour), plain))
        if spent[method] <= 1:
            return method
    return min(spent, key=lambda method: spent[method])


def _int8(
    engine: TargetEngine,
    model: onnx.ModelProto,
    method: Method,
    ranges: TensorRanges,
    judge: Judge,
    options: CalibrationOptions,
    on_step: Step,
) -> Int8Result:
    flavour, plain = QDQ_SCHEMES[engine], engine == "tensorrt"
    layers = quantisable(model, flavour)
    timer = options.timer(engine, model, judge, options.threads)
    conditions = timer.stated()

    def graph(only: Assignment) -> onnx.ModelProto:
        return quantise(model, ranges, flavour, only)

    what, done = f"int8 for {engine}", work(model)
    few = Judge.quick(model, judge.feeding, judge.windows, MAX_SEARCH_WINDOWS)
    for share in BUDGET_FRACTIONS:
        on_step(what, 0, None)
        choice = choose(
            layers,
            lambda only: few(graph(only), plain),
            lambda only: timer(graph(only)),
            _part(options.budget, share),
            done,
            options.thorough,
            on_tried=lambda more: on_step(what, more, None),
            tries=options.tries,
            least=-math.inf if options.offer and timer.kind == "modelled" else GAIN,
            again=lambda only: timer.again(graph(only)),
        )
        choice = _told_of(choice, options.budget)
        if choice.best is None and share < 1:
            break  # what was found before says why
        if choice.best is None:
            return Int8Result(engine, method, ranges, timer.kind, choice, None, None, conditions)
        shipped = graph(choice.best.layers)
        if plain:
            shipped = to_fp16(shipped, [*judge.feeding.inputs, *float_outputs(model, judge.feeding)])
        found = judge(shipped, plain)
        if options.budget.spent(found) <= 1:
            if choice.best.gain < GAIN:
                told = f"{choice.reason}; {choice.best.gain:+.1%} by the model, offered to boards to measure"
                choice = dataclasses.replace(choice, reason=told)
            return Int8Result(engine, method, ranges, timer.kind, choice, shipped, found, conditions)
    reason = f"as it would ship, with the rest in fp16, int8 breaks the budget of {options.budget}"
    if plain:
        reason += f" ({weakest(shipped, judge.feeding, few.windows, plain)})"
    choice = dataclasses.replace(choice, best=None, reason=f"{reason}: float ships alone")
    return Int8Result(engine, method, ranges, timer.kind, choice, None, None, conditions)


def _bearing(one: Int8Result, extremes: TensorRanges) -> Int8Result:
    """Return what came out, but no graph whose float16 part overflows on the calibration frames."""
    found = overflow(one.model, extremes) if one.model is not None else None
    if found is None:
        return one
    choice = dataclasses.replace(one.choice, best=None, reason=f"{found}: float ships alone")
    return dataclasses.replace(one, choice=choice, model=None, quality=None)


def _told_of(choice: Choice, budget: Budget) -> Choice:
    """Return a choice with what each graph spends of the whole budget, not of the part that was given."""

    def told(tried: Tried) -> Tried:
        return dataclasses.replace(tried, spent=budget.spent(tried.quality))

    best = None if choice.best is None else told(choice.best)
    return dataclasses.replace(choice, best=best, tried=tuple(map(told, choice.tried)))


def _part(budget: Budget, share: float) -> Budget:
    return Budget(budget.cc and budget.cc * share, budget.kld and budget.kld * share)


def float_outputs(model: onnx.ModelProto, feeding: Feeding) -> list[str]:
    """Return the outputs that stay float32 in an fp16 graph: all but states."""
    states = {state.output for state in feeding.states}
    return [output.name for output in model.graph.output if output.name not in states]


def describe_calibration(
    frames: CalibrationFrames, options: CalibrationOptions, method: str
) -> dict[str, Any]:
    """Return what ranges were made from and how, as plain values."""
    return {
        "method": method,
        "source": frames.source,
        "window": len(next(iter(frames.windows))),
        "windows": len(frames.windows),
        "held_out": len(frames.held_out),
        "apart": frames.apart,
        "frames_sha256": frames.sha256,
        "onnxruntime": ort.__version__,
        "budget": dataclasses.asdict(options.budget),
    }


def calibration_document(
    frames: CalibrationFrames, options: CalibrationOptions, found: Mapping[Form, CalibrationResult]
) -> dict[str, Any]:
    """Return the same with what came of each form."""
    methods = dict.fromkeys(one.method for made in found.values() for one in made.int8)
    return {
        **describe_calibration(frames, options, ", ".join(methods)),
        "doubts": [doubt for made in found.values() for doubt in made.doubts],
        "int8": {form: [one.document() for one in made.int8] for form, made in found.items()},
    }
