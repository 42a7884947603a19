"""Latency of graphs on ONNX Runtime's CPU engine, measured robustly against load and chance.

The candidate and the float graph run in blocks of four: float, candidate, candidate, float, and in the next
block the other way round. Each block yields the ratio of both times, in which the load of the machine and
effects of the order cancel out. The result is the median ratio over many blocks.

A graph that ships must also win every one of `ROUNDS` such measurements, each with newly opened sessions.
A graph that is no faster wins all of them once in 2 ** `ROUNDS` times (sign test), whatever the noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, Protocol

import onnx
import onnxruntime as ort

from calibration.inputs.graph_inputs import InputFeeder, Window, open_session
from edge.hardware.host import detect_machine

WARMUP_RUNS = 2
"""Runs of each graph before the measurement."""
MIN_BLOCKS, MAX_BLOCKS = 5, 100
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
        gain: Lower bound of the time saved, as a fraction of `float_ms`.
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
        return time_alternating(self._open(candidate), self._open(self.model))

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Time one candidate again with newly opened sessions; see `confirm_gain`."""
        return confirm_gain(lambda: (self._open(candidate), self._open(self.model)))

    def _open(self, model: onnx.ModelProto) -> InferenceCall:
        session = open_session(model, self.threads)
        feed = self.feeder(session, self.window)
        return lambda: session.run(None, feed)

    def conditions(self) -> dict[str, object]:
        """Return CPU, threads and version of ONNX Runtime."""
        return {"cpu": detect_machine().cpu, "threads": self.threads, "onnxruntime": ort.__version__}


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
        clock: Wall clock, seconds.
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

    Args:
        open_pair: Opens new sessions and returns the calls of candidate and reference.
        clock: Wall clock, seconds.
    """
    rounds = [time_alternating(*open_new(), clock) for open_new in repeat(open_pair, ROUNDS)]
    ratios = [candidate_ms / float_ms for candidate_ms, float_ms in rounds]
    float_ms = statistics.median(float_ms for _, float_ms in rounds)
    return ConfirmedLatency(statistics.median(ratios) * float_ms, float_ms, 1 - max(ratios))
