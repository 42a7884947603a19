"""Shipped students: size, CC, latency and speed-up of each precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from edge.inference.runner_factory import open_runner
from edge.release.manifest import SHIPPED_RELEASES, load_release
from tests.bench.rows import BenchRow, time_in_turns

MIN_CC = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}
"""With PyTorch's fp32 maps, on the frames that each release was verified on."""


def student_rows() -> Iterator[BenchRow]:
    """Yield rows of the streaming graphs on ONNX Runtime with one thread, batch 1."""
    for name in sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir()):
        release = load_release(name)
        rng, shape = np.random.default_rng(0), release.input_shape(1, "stream")
        feed = {
            input_name: rng.uniform(-1, 1, [side or 1 for side in shape]).astype(np.float32)
            for input_name in release.input_names("stream")
        }
        precisions = release.precisions("stream")
        runners = {precision: open_runner(release, precision, threads=1) for precision in precisions}
        calls: dict[str, Callable[[], object]] = {
            precision: partial(runner.infer, feed) for precision, runner in runners.items()
        }
        seconds = time_in_turns(calls, repeats=50, rounds=12)
        for precision in precisions:
            graph = release.graph(precision)
            label = f"{name} {precision}"
            yield BenchRow(f"{label}: size", release.path(graph).stat().st_size / 1e6, "MB")
            if graph.verified is not None:
                yield BenchRow(f"{label}: CC", graph.verified.mean_cc, "", MIN_CC[precision])
            yield BenchRow(f"{label}: latency", seconds[precision] * 1e3, "ms")
            yield BenchRow(f"{label}: speed-up", seconds["fp32"] / seconds[precision], "x")
