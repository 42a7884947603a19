"""int8 graphs of a float graph. One ships only if its accuracy and, where it can be measured, its latency
were confirmed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime as ort

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.distribution_shift import ChannelStatistics, measure_shift, shift_warning
from calibration.inputs.graph_inputs import InputFeeder
from calibration.quantization.qdq import find_qdq_placement, quantize
from calibration.ranges.activation_ranges import count_histograms
from calibration.ranges.histogram import Method
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator, SaliencyMap
from calibration.search.method_selection import ranges_by_method, rank_methods
from edge.release.quantization import QuantizationRecord, TensorRanges
from edge.release.release import Form, TargetEngine
from export.graphs.int8_search import (
    QDQ_SCHEMES,
    CalibrationOptions,
    EngineSearch,
    Int8Result,
    ProgressCallback,
    RangeChoice,
)


@dataclass(frozen=True)
class CalibrationResult:
    """Result of calibrating a float graph.

    Attributes:
        quantization: Placement of Q/DQ if all layers are in int8, per engine.
        int8: Result of the search for each engine.
        warnings: Doubts about the footage, one sentence each.
        extremes: Least and greatest value of each activation, not clipped by the method.
    """

    quantization: QuantizationRecord
    int8: tuple[Int8Result, ...]
    warnings: tuple[str, ...]
    extremes: TensorRanges

    @property
    def method(self) -> str:
        """The method of the ranges; if the engines differ, all methods with commas."""
        return ", ".join(dict.fromkeys(result.method for result in self.int8))

    @property
    def ranges(self) -> TensorRanges:
        """The ranges for TensorRT."""
        return next(result.ranges for result in self.int8 if result.engine == "tensorrt")


def build_int8_graphs(
    model: onnx.ModelProto,
    feeder: InputFeeder,
    frames: CalibrationFrames,
    statistics: ChannelStatistics,
    options: CalibrationOptions,
    on_progress: ProgressCallback = lambda step, advance, total: None,
    fixed_ranges: TensorRanges | None = None,
    maps: Sequence[SaliencyMap] | None = None,
) -> CalibrationResult:
    """Find ranges and, for each engine, the fastest int8 graph that keeps the budget.

    Args:
        model: The fp32 graph.
        feeder: Maps a window to the inputs of the graph.
        frames: Footage to calibrate on, and footage held out to evaluate on.
        statistics: Channel statistics of the training data; empty if unknown.
        options: Options of the calibration.
        on_progress: Called for each unit of work.
        fixed_ranges: Ranges that the network was trained with. They replace those found here.
        maps: Maps of the fp32 graph on the held-out windows; None to compute them.

    Raises:
        InputError: An activation or a map is not finite.
    """
    on_progress("ranges", 0, len(frames.windows))
    histograms = count_histograms(
        model, feeder, frames, options.cache, lambda windows: on_progress("ranges", windows, None)
    )
    fixed = fixed_ranges or {}
    ranges_of = {
        method: {tensor: fixed.get(tensor, limits) for tensor, limits in ranges.items()}
        for method, ranges in ranges_by_method(options.method, histograms).items()
    }
    warning = shift_warning(measure_shift(model, feeder, frames.windows, statistics))
    evaluator = AccuracyEvaluator(model, feeder, frames.held_out, maps)
    extremes = {name: (float(counts.low), float(counts.high)) for name, counts in histograms.items()}
    results = []
    for engine in QDQ_SCHEMES:
        on_progress(f"ranges for {engine}", 0, None)
        method = select_method(engine, model, ranges_of, frames, evaluator, options.budget)
        choice = RangeChoice(method, ranges_of[method], extremes)
        results.append(EngineSearch(engine, model, choice, evaluator, options, on_progress).run())
    record = QuantizationRecord(
        tuple(value.name for value in model.graph.input),
        tuple(value.name for value in model.graph.output),
        {
            result.engine: find_qdq_placement(model, result.ranges, QDQ_SCHEMES[result.engine])
            for result in results
        },
    )
    warnings = frames.warnings + ((warning,) if warning else ())
    return CalibrationResult(record, tuple(results), warnings, extremes)


def select_method(
    engine: TargetEngine,
    model: onnx.ModelProto,
    ranges: Mapping[Method, TensorRanges],
    frames: CalibrationFrames,
    evaluator: AccuracyEvaluator,
    budget: AccuracyBudget,
) -> Method:
    """Select the method of an engine's ranges.

    Args:
        engine: The engine.
        model: The fp32 graph.
        ranges: Ranges by method.
        frames: Footage that methods are ranked on.
        evaluator: Evaluates on the held-out windows.
        budget: Limits for the accuracy loss.

    Returns:
        The first method by rank that keeps the budget on the held-out windows with all layers in int8; if
        none does, the one that exceeds it least.
    """
    if len(ranges) == 1:
        return next(iter(ranges))
    scheme, disable_qdq_fusion = QDQ_SCHEMES[engine], engine == "tensorrt"
    budget_used: dict[Method, float] = {}
    for method in rank_methods(ranges, model, evaluator.feeder, frames.windows, scheme, disable_qdq_fusion):
        quality = evaluator(quantize(model, ranges[method], scheme), disable_qdq_fusion)
        budget_used[method] = budget.fraction_used(quality)
        if budget_used[method] <= 1:
            return method
    return min(budget_used, key=lambda method: budget_used[method])


def describe_calibration(
    frames: CalibrationFrames, options: CalibrationOptions, method: str
) -> dict[str, Any]:
    """Return the data and settings of a calibration as JSON types."""
    return {
        "method": method,
        "source": frames.source,
        "window": len(next(iter(frames.windows))),
        "windows": len(frames.windows),
        "held_out": len(frames.held_out),
        "apart": frames.is_disjoint,
        "frames_sha256": frames.sha256,
        "onnxruntime": ort.__version__,
        "budget": dataclasses.asdict(options.budget),
    }


def calibration_document(
    frames: CalibrationFrames, options: CalibrationOptions, results: Mapping[Form, CalibrationResult]
) -> dict[str, Any]:
    """Return data, settings and results of the calibration of a release, by form, as JSON types."""
    methods = dict.fromkeys(int8.method for result in results.values() for int8 in result.int8)
    return {
        **describe_calibration(frames, options, ", ".join(methods)),
        "doubts": [warning for result in results.values() for warning in result.warnings],
        "int8": {form: [int8.to_dict() for int8 in result.int8] for form, result in results.items()},
    }
