"""Shipped students: share of the machine's peak, latency and speed-up of each precision, size and CC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from edge.inference.runner_factory import open_runner
from edge.release.manifest import SHIPPED_RELEASES, load_release
from edge.release.release import Release
from tests.bench.machine_peak import open_peak
from tests.bench.measurement.row import AnyBenchmark, Benchmark, Contestant, Reading, Readings, Row, timed

MIN_CC = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}
"""With PyTorch's fp32 maps, on the frames that each release was verified on."""
THREADS = {1: "one thread", 2: "two threads"}
GOALS = {("skd-32", "int8"): 40.0, ("skd-64", "int8"): 55.0}
"""Shares of the peak with two threads that are aimed at, in percent."""


def benchmarks() -> Sequence[AnyBenchmark]:
    """Return a benchmark per shipped student and number of threads, and the readings of all."""
    names = sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir())
    releases = [load_release(name) for name in names]
    return (
        *(
            Benchmark(f"{r.name}, {words}", 6, _rows(r, threads), partial(_open_student, r, threads))
            for r in releases
            for threads, words in THREADS.items()
        ),
        Readings("size and CC", 2, lambda _folder: (reading for r in releases for reading in _readings(r))),
    )


def _rows(release: Release, threads: int) -> list[Row]:
    """Return rows of the streaming graph in ONNX Runtime, batch 1."""
    rows = []
    for precision in _precisions(release, threads):
        label = f"{release.name} {precision}, {THREADS[threads]}"
        rows.append(Row(f"{label}: latency", precision, unit="ms", scale=1e3, at_least=False))
        if precision != "fp32":
            rows.append(Row(f"{label}: speed-up over fp32", "fp32", precision))
        if precision != "fp16":  # the CPU computes it in fp32
            goal = GOALS.get((release.name, precision)) if threads == 2 else None
            share = f"{label}: share of the machine's peak"
            rows.append(Row(share, f"peak {precision}", precision, "%", 100, goal=goal))
    return rows


def _precisions(release: Release, threads: int) -> list[str]:
    return [each for each in release.precisions("stream") if each != "fp16" or threads == 1]


@contextmanager
def _open_student(release: Release, threads: int, _folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open the graphs, and the convolution that is the machine's peak.

    One thread is timed by its processor time, which hardly depends on the load of the machine. Two threads
    wait for each other, so that their time is that on the wall.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    model = onnx.load(release.path(release.graph("fp32")))
    rng, shape = np.random.default_rng(0), release.input_shape(1, "stream")
    feed = {
        name: rng.uniform(-1, 1, [side or 1 for side in shape]).astype(np.float32)
        for name in release.input_names("stream")
    }
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        for precision in _precisions(release, threads):
            runner = open_runner(release, precision, threads=threads)
            stack.callback(runner.close)
            contestants[precision] = timed(partial(runner.infer, feed), clock=clock)
            if precision != "fp16":
                contestants[f"peak {precision}"] = open_peak(model, precision, threads, clock)
        yield contestants


def _readings(release: Release) -> Iterator[Reading]:
    for precision in release.precisions("stream"):
        graph, label = release.graph(precision), f"{release.name} {precision}"
        yield Reading(
            f"{label}: size", release.path(graph).stat().st_size / 1e6, "MB", at_least=False, spread=0
        )
        if graph.verified is not None:
            yield Reading(f"{label}: CC", graph.verified.mean_cc, "", MIN_CC[precision], spread=0)
