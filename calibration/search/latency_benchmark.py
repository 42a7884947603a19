"""Latency on ONNX Runtime's CPU engine, measured so that neither a busy machine nor luck makes a graph fast.

Candidate and float graph run in fours: one, other, other, one, and the next time the other way round. What
is kept of a four is the ratio of their times, in which the machine's load and who came first cancel; of
many fours, the median. What ships is held to the least of `ROUNDS` such medians, each of sessions opened
anew: a graph that is no faster wins all of them once in 2 ** `ROUNDS` times (a sign test), whatever the
noise.
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
"""Runs of each graph before any is timed."""
MIN_BLOCKS, MAX_BLOCKS = 5, 100
MIN_PROCESS_TIME_S = 0.25
"""After this long of the process's own time, which others cannot take, `MIN_BLOCKS` will do."""
ROUNDS = 8
InferenceCall = Callable[[], object]


class ConfirmedLatency(NamedTuple):
    """The candidate's latency and the float graph's, ms; what it wins at least, as a share of the latter."""

    candidate_ms: float
    float_ms: float
    gain: float


class LatencyTimer(Protocol):
    """What knows the latency of an engine's graphs."""

    @property
    def kind(self) -> str:
        """Return "measured" or "modelled"."""

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the candidate's latency and the float graph's, ms."""

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Return the same, by what was measured for it alone, with a lower bound of what is won."""

    def conditions(self) -> dict[str, object]:
        """Return on what, to stand beside what it says."""


@dataclass(frozen=True)
class MeasuredLatency:
    """Latency of graphs as a share of the float graph's, by runs in turns on this machine."""

    model: onnx.ModelProto
    feeder: InputFeeder
    window: Window
    threads: int = 1

    kind = "measured"

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the candidate's latency and the float graph's, ms: medians, as `time_alternating`."""
        return time_alternating(self._run(candidate), self._run(self.model))

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Return the same of sessions opened anew, as `confirm_gain`."""
        return confirm_gain(lambda: (self._run(candidate), self._run(self.model)))

    def _run(self, model: onnx.ModelProto) -> InferenceCall:
        session = open_session(model, self.threads)
        feed = self.feeder(session, self.window)
        return lambda: session.run(None, feed)

    def conditions(self) -> dict[str, object]:
        """Return the machine."""
        return {"cpu": detect_machine().cpu, "threads": self.threads, "onnxruntime": ort.__version__}


def time_alternating(
    candidate: InferenceCall,
    reference: InferenceCall,
    clock: Callable[[], float] = time.perf_counter,
    own: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Return the latency of two, ms: the reference's median, and as much of it as the median ratio says.

    `clock`: seconds; `own`: those that the process was given.
    """
    for run in (candidate, reference) * WARMUP_RUNS:
        run()
    ratios, references = list[float](), list[float]()
    end = own() + MIN_PROCESS_TIME_S
    for at in range(MAX_BLOCKS):
        if at >= MIN_BLOCKS and own() > end:
            break
        taken = [0.0, 0.0]
        for which in (0, 1, 1, 0) if at % 2 else (1, 0, 0, 1):
            before = clock()
            (candidate, reference)[which]()
            taken[which] += clock() - before
        ratios.append(taken[0] / taken[1])
        references.append(500 * taken[1])
    float_ms = statistics.median(references)
    return statistics.median(ratios) * float_ms, float_ms


def confirm_gain(
    opened: Callable[[], tuple[InferenceCall, InferenceCall]], clock: Callable[[], float] = time.perf_counter
) -> ConfirmedLatency:
    """Return the latency of two, ms, over `ROUNDS` rounds, and the gain of the round that is least for the
    candidate. `opened`: makes both anew, the candidate first.
    """
    found = [time_alternating(*make(), clock) for make in repeat(opened, ROUNDS)]
    ratios = [candidate_ms / float_ms for candidate_ms, float_ms in found]
    float_ms = statistics.median(float_ms for _, float_ms in found)
    return ConfirmedLatency(statistics.median(ratios) * float_ms, float_ms, 1 - max(ratios))
