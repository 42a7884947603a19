"""Shipped students: share of the machine's peak, latency and speed-up of each precision, size and CC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from calibration.search.latency_model import convolution_mmacs
from edge.inference.runner_factory import open_runner
from edge.release.manifest import SHIPPED_RELEASES, Release, load_release
from tests.bench.machine_peak import PEAK_MACS, open_peak
from tests.bench.measurement.row import AnyBenchmark, Benchmark, Contestant, Reading, Readings, Row, timed

MIN_CC = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}
"""With PyTorch's fp32 maps, on the frames that each release was verified on."""
PEAK_THREADS = 2
GOALS = {("skd-32", "int8"): 40.0, ("skd-64", "int8"): 55.0}
"""Shares of the peak that are aimed at, in percent."""


def benchmarks() -> Sequence[AnyBenchmark]:
    """Return a benchmark per shipped student, and the readings of all."""
    names = sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir())
    releases = [load_release(name) for name in names]
    return (
        *(Benchmark(r.name, 14, _rows(r), partial(_open_student, r)) for r in releases),
        Readings("size and CC", 2, lambda _folder: (reading for r in releases for reading in _readings(r))),
    )


def _rows(release: Release) -> list[Row]:
    """Return rows of the streaming graph in ONNX Runtime, batch 1."""
    rows = []
    for precision in release.precisions("stream"):
        label = f"{release.name} {precision}"
        rows.append(Row(f"{label}, one thread: latency", precision, unit="ms", scale=1e3, at_least=False))
        if precision != "fp32":
            rows.append(Row(f"{label}, one thread: speed-up over fp32", "fp32", precision))
        if precision != "fp16":  # the CPU computes it in fp32
            share = f"{label}, two threads: share of the machine's peak"
            goal = GOALS.get((release.name, precision))
            peak, ours = f"peak {precision}", f"{precision}, two threads"
            rows.append(Row(share, peak, ours, "%", 100, goal=goal))
    return rows


@contextmanager
def _open_student(release: Release, _folder: Path) -> Iterator[Mapping[str, Contestant]]:
    """Open the graphs with one thread and with two, and the convolution that is the machine's peak."""
    macs = 1e6 * sum(convolution_mmacs(onnx.load(release.path(release.graph("fp32")))).values())
    rng, shape = np.random.default_rng(0), release.input_shape(1, "stream")
    feed = {
        name: rng.uniform(-1, 1, [side or 1 for side in shape]).astype(np.float32)
        for name in release.input_names("stream")
    }
    with ExitStack() as stack:
        contestants: dict[str, Contestant] = {}
        for precision in release.precisions("stream"):
            one = open_runner(release, precision, threads=1)
            stack.callback(one.close)
            contestants[precision] = timed(partial(one.infer, feed), clock=time.process_time)
            if precision == "fp16":
                continue
            two = open_runner(release, precision, threads=PEAK_THREADS)
            stack.callback(two.close)
            contestants[f"{precision}, two threads"] = timed(partial(two.infer, feed), work=macs)
            peak = timed(open_peak(precision, PEAK_THREADS), work=PEAK_MACS, comparable=False)
            contestants[f"peak {precision}"] = peak
        yield contestants


def _readings(release: Release) -> Iterator[Reading]:
    for precision in release.precisions("stream"):
        graph, label = release.graph(precision), f"{release.name} {precision}"
        yield Reading(
            f"{label}: size", release.path(graph).stat().st_size / 1e6, "MB", at_least=False, spread=0
        )
        if graph.verified is not None:
            yield Reading(f"{label}: CC", graph.verified.mean_cc, "", MIN_CC[precision], spread=0)
