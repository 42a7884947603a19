"""Latency on ONNX Runtime's CPU engine, measured: two graphs in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Protocol

import onnx
import onnxruntime as ort

from calibration.feeding import Feeding, Window, open_session
from edge.machine import this_machine

WARM_UP = 3
LEAST_RUNS, MOST_RUNS = 8, 200
"""Of each graph."""
SPENT_S = 0.25
"""After this long, the least number of runs will do."""


class Timer(Protocol):
    """What knows the latency of an engine's graphs."""

    @property
    def kind(self) -> str:
        """Return "measured" or "modelled"."""

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the candidate's latency and the float graph's, ms."""

    def stated(self) -> dict[str, object]:
        """Return on what, to stand beside what it says."""


@dataclass(frozen=True)
class Measured:
    """Latency of graphs as a share of the float graph's, by runs in turns on this machine."""

    model: onnx.ModelProto
    feeding: Feeding
    window: Window
    threads: int = 1

    kind = "measured"

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the candidate's latency and the float graph's, ms, medians of runs in turns."""
        sessions = [open_session(model, self.threads) for model in (candidate, self.model)]
        feeds = [self.feeding(session, self.window) for session in sessions]
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + SPENT_S
        for turn in range(WARM_UP + MOST_RUNS):
            if turn >= WARM_UP + LEAST_RUNS and time.perf_counter() > end:
                break
            for session, feed, found in zip(sessions, feeds, times, strict=True):
                before = time.perf_counter()
                session.run(None, feed)
                if turn >= WARM_UP:
                    found.append(1e3 * (time.perf_counter() - before))
        candidate_ms, float_ms = (statistics.median(found) for found in times)
        return candidate_ms, float_ms

    def stated(self) -> dict[str, object]:
        """Return the machine."""
        return {"cpu": this_machine().cpu, "threads": self.threads, "onnxruntime": ort.__version__}
