"""Latency of graphs on ONNX Runtime's CPU engine, measured robustly against load and chance.

The candidate and the float graph run in blocks of four: float, candidate, candidate, float, and in the next
block the other way round. Each block yields the ratio of both times, in which the load of the machine and
effects of the order cancel out. The result is the median ratio over many blocks.

A graph that ships must also win every one of `ROUNDS` such measurements, each with newly opened sessions. The
first one that is lost ends them. A graph that is no faster wins all of them once in 2 ** `ROUNDS` times
(sign test), whatever the noise.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import onnx
import onnxruntime as ort

from calibration.inputs.graph_inputs import InputFeeder, Window, open_session
from edge.hardware.host import detect_machine
from edge.inference.interface.layer_times import LayerTime
from edge.inference.onnxruntime.layers import read_events

WARMUP_RUNS = 2
"""Runs of each graph before the measurement."""
MIN_BLOCKS, MAX_BLOCKS = 3, 100
MIN_PROCESS_TIME_S = 0.25
"""A measurement may end after `MIN_BLOCKS` blocks when it has used this much CPU time of the process.

CPU time does not depend on other processes, so a busy machine does not shorten the measurement.
"""
ROUNDS = 8
"""Independent measurements that confirm a gain."""
InferenceCall = Callable[[], object]


class ConfirmedLatency(NamedTuple):
    """Latency of a candidate, confirmed by several independent measurements.

    Attributes:
        candidate_ms: Latency of the candidate.
        float_ms: Latency of the float graph.
        gain: Time saved in the worst measurement, as a fraction of `float_ms`.
    """

    candidate_ms: float
    float_ms: float
    gain: float


class LatencyTimer(Protocol):
    """Determines the latency of graphs on one engine."""

    @property
    def kind(self) -> str:
        """Return "measured" or "modelled"."""

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the latency of the candidate and of the float graph, ms."""

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Time one candidate again, independently of earlier measurements."""

    def layer_gains(self, candidate: onnx.ModelProto) -> Mapping[str, float] | None:
        """Return the time that each node saves in the candidate; see `layer_gains`. None if it is unknown."""

    def conditions(self) -> dict[str, object]:
        """Return the conditions of the measurement, to be stored with its results."""


@dataclass(frozen=True)
class MeasuredLatency:
    """Times graphs on this machine, alternating with the float graph.

    Attributes:
        model: The float graph.
        feeder: Maps the window to the inputs of both graphs.
        window: The window to run the graphs on.
        threads: Threads of each inference session.
    """

    model: onnx.ModelProto
    feeder: InputFeeder
    window: Window
    threads: int = 1

    kind = "measured"

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the latency of the candidate and of the float graph, ms; see `time_alternating`."""
        return time_alternating(self._open(candidate), self._open(self.model), self._clock)

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Time one candidate again with newly opened sessions; see `confirm_gain`."""
        return confirm_gain(lambda: (self._open(candidate), self._open(self.model)), self._clock)

    def layer_gains(self, candidate: onnx.ModelProto) -> dict[str, float]:
        """Return the time that each node saves in the candidate, by the profiles of both graphs.

        The graphs take turns, and the shortest time of each node counts: other processes only lengthen it.
        """
        with tempfile.TemporaryDirectory() as folder:
            sessions = [
                open_session(model, self.threads, profile_to=Path(folder) / name)
                for name, model in (("float", self.model), ("int8", candidate))
            ]
            feeds = [self.feeder(session, self.window) for session in sessions]
            end, runs = time.process_time() + MIN_PROCESS_TIME_S, 0
            while runs < WARMUP_RUNS + MIN_BLOCKS or (time.process_time() < end and runs < MAX_BLOCKS):
                for session, feed in zip(sessions, feeds, strict=True):
                    session.run(None, feed)
                runs += 1
            events = [json.loads(Path(session.end_profiling()).read_text()) for session in sessions]
        return layer_gains(*(read_events(graph_events, WARMUP_RUNS, min) for graph_events in events))

    @property
    def _clock(self) -> Callable[[], float]:
        """The clock of a run. One thread's processor time does not depend on other processes."""
        return time.thread_time if self.threads == 1 else time.perf_counter

    def _open(self, model: onnx.ModelProto) -> InferenceCall:
        session = open_session(model, self.threads)
        feed = self.feeder(session, self.window)
        return lambda: session.run(None, feed)

    def conditions(self) -> dict[str, object]:
        """Return CPU, threads and version of ONNX Runtime."""
        return {"cpu": detect_machine().cpu, "threads": self.threads, "onnxruntime": ort.__version__}


def layer_gains(float_layers: Sequence[LayerTime], int8_layers: Sequence[LayerTime]) -> dict[str, float]:
    """Return the time that each node saves in an int8 graph, as a fraction of the float graph's time.

    Q and DQ nodes are left out: they belong to the graph, and not to a node. A node that only one of the
    graphs has saves all of its time, or costs it. So the sum of what is saved estimates the gain of the best
    mix of both graphs from above.
    """
    saved_ms: dict[str, float] = defaultdict(float)
    for sign, layers in ((1, float_layers), (-1, int8_layers)):
        for layer in layers:
            if layer.op not in ("QuantizeLinear", "DequantizeLinear"):
                saved_ms[layer.nodes[0]] += sign * layer.ms
    total_ms = sum(layer.ms for layer in float_layers)
    return {node: ms / total_ms for node, ms in saved_ms.items()}


def time_alternating(
    candidate: InferenceCall,
    reference: InferenceCall,
    clock: Callable[[], float] = time.perf_counter,
    process_clock: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Time two calls in alternating blocks.

    Args:
        candidate: The call to be compared.
        reference: The call that it is compared with.
        clock: Clock of the calls, seconds.
        process_clock: CPU time of the process, seconds.

    Returns:
        The median ratio times the reference's median latency, and that median latency, in ms.
    """
    for run in (candidate, reference) * WARMUP_RUNS:
        run()
    ratios, reference_times = list[float](), list[float]()
    end = process_clock() + MIN_PROCESS_TIME_S
    for block in range(MAX_BLOCKS):
        if block >= MIN_BLOCKS and process_clock() > end:
            break
        elapsed = [0.0, 0.0]
        for index in (0, 1, 1, 0) if block % 2 else (1, 0, 0, 1):
            start = clock()
            (candidate, reference)[index]()
            elapsed[index] += clock() - start
        ratios.append(elapsed[0] / elapsed[1])
        reference_times.append(500 * elapsed[1])  # two runs, in ms
    reference_ms = statistics.median(reference_times)
    return statistics.median(ratios) * reference_ms, reference_ms


def confirm_gain(
    open_pair: Callable[[], tuple[InferenceCall, InferenceCall]],
    clock: Callable[[], float] = time.perf_counter,
) -> ConfirmedLatency:
    """Time two calls in `ROUNDS` independent rounds; the gain is that of the worst round.

    The first round that the candidate does not win is the last one.

    Args:
        open_pair: Opens new sessions and returns the calls of candidate and reference.
        clock: Clock of the calls, seconds.
    """
    ratios, reference_times = list[float](), list[float]()
    while len(ratios) < ROUNDS and max(ratios, default=0.0) < 1:
        candidate_ms, float_ms = time_alternating(*open_pair(), clock)
        ratios.append(candidate_ms / float_ms)
        reference_times.append(float_ms)
    float_ms = statistics.median(reference_times)
    return ConfirmedLatency(statistics.median(ratios) * float_ms, float_ms, 1 - max(ratios))
