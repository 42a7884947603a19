"""The shipped students: size, CC, latency and speed-up of each precision."""

from __future__ import annotations

from functools import partial

import numpy as np

from edge.inference.runner_factory import open_runner
from edge.release.manifest import SHIPPED_RELEASES, load_release
from tests.bench.rows import Row, turns

LEAST_CC = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.995}
"""With PyTorch's fp32 maps, on the frames that each release was held to."""


def student_rows() -> list[Row]:
    """Streaming graphs on ONNX Runtime, a thread, batch 1; speed-up over the same student's fp32."""
    rows: list[Row] = []
    for name in sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir()):
        release = load_release(name)
        rng, shape = np.random.default_rng(0), release.input_shape(1, "stream")
        feed = {
            name: rng.uniform(-1, 1, [side or 1 for side in shape]).astype(np.float32)
            for name in release.inputs_of("stream")
        }
        precisions = release.precisions("stream")
        runners = {precision: open_runner(release, precision, threads=1) for precision in precisions}
        seconds = turns(
            {precision: partial(runner.infer, feed) for precision, runner in runners.items()},
            calls=50,
            rounds=12,
        )
        for precision in precisions:
            graph = release.graph(precision)
            what = f"{name} {precision}"
            rows.append(Row(f"{what}: size", release.path(graph).stat().st_size / 1e6, "MB"))
            if graph.verified is not None:
                rows.append(Row(f"{what}: CC", graph.verified.mean_cc, "", LEAST_CC[precision]))
            rows.append(Row(f"{what}: latency", seconds[precision] * 1e3, "ms"))
            rows.append(Row(f"{what}: speed-up", seconds["fp32"] / seconds[precision], "x"))
    return rows
