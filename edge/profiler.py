"""Latency of a release's graphs: warm-up, then runs of every precision in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.engines import Choice, choose
from edge.errors import InputError
from edge.frames import Input
from edge.machine import this_machine
from edge.release import Form, Release
from edge.runner import Runner, open_engine

ROUND = 50
"""Runs of one precision before the next one's turn: a drift of the clock hits all alike."""


@dataclass(frozen=True)
class Latency:
    """Latency of one graph at batch 1, the engine's call alone, over `runs` runs after `warm_up`."""

    precision: str
    form: str
    engine: str
    emulated: bool
    """The processor does not compute in this precision itself: no sign of a drone's speed."""
    size_bytes: int
    warm_up: int
    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    std_ms: float
    fps: float
    """1000 / mean_ms."""


def profile(
    release: Release,
    precisions: Sequence[str],
    form: Form = "stream",
    threads: int | None = None,
    runs: int = 300,
    warm_up: int = 50,
    on_round: Callable[[int], None] = lambda runs: None,
    engine: Choice = "onnxruntime",
) -> list[Latency]:
    """Measure the release's graphs, in rounds of `ROUND` runs each; inputs are its golden frames.

    In clip form a run is a whole clip.

    Raises:
        InputError: the release lacks a precision, or too few runs are asked for.
    """
    if runs < 1 or warm_up < 0:
        raise InputError(f"cannot measure {runs} runs after {warm_up}; expected at least 1 after 0")
    frames, _ = release.golden()
    prepared: list[Input] = [release.prepare(frame) for frame in frames]
    pairs = list(zip(prepared, [prepared[0], *prepared], strict=False))
    names = release.inputs_of(form)
    feeds = [dict(zip(names, pair, strict=False)) for pair in pairs]
    if form == "clip" and release.clip is not None:
        frames_in = [prepared[index % len(prepared)] for index in range(release.clip.frames)]
        feeds = [{names[0]: np.stack(frames_in, axis=2).astype(np.float32)}]
    chosen = [choose(release, precision, form, engine) for precision in precisions]
    runners: list[Runner] = []
    times: list[list[int]] = [[] for _ in chosen]
    try:
        runners.extend(open_engine(release, one, threads) for one in chosen)
        for runner in runners:
            _timed(runner, feeds, warm_up)
        for done in range(0, runs, ROUND):
            for runner, ns in zip(runners, times, strict=True):
                ns += _timed(runner, feeds, min(ROUND, runs - done))
                on_round(min(ROUND, runs - done))
    finally:
        for runner in runners:
            runner.close()
    results = []
    for one, runner, ns in zip(chosen, runners, times, strict=True):
        ms = np.asarray(ns) / 1e6
        p50, p90, p99 = (float(q) for q in np.percentile(ms, [50, 90, 99]))
        results.append(
            Latency(
                precision=one.graph.precision,
                form=form,
                engine=runner.description,
                emulated=one.built is None and not this_machine().native(one.graph.precision),
                size_bytes=(one.built.path if one.built else release.path(one.graph)).stat().st_size,
                warm_up=warm_up,
                runs=runs,
                mean_ms=float(ms.mean()),
                p50_ms=p50,
                p90_ms=p90,
                p99_ms=p99,
                std_ms=float(ms.std()),
                fps=1e3 / float(ms.mean()),
            )
        )
    return results


def _timed(runner: Runner, feeds: Sequence[dict[str, Input]], runs: int) -> list[int]:
    clock, infer, count = time.perf_counter_ns, runner.infer, len(feeds)
    ns = []
    for index in range(runs):
        feed = feeds[index % count]
        before = clock()
        infer(feed)
        ns.append(clock() - before)
    return ns
