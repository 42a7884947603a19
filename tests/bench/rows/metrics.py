"""Speed of the metrics, compared with pysaliency."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import InputError
from edge.metrics.saliency import auc_judd
from tests.bench.measurement.row import Benchmark, Contestant, Row, timed


def benchmarks() -> Sequence[Benchmark]:
    """Return the comparison of AUC with pysaliency's `AUC_per_image` and `AUCs`: 1280x720 maps, one core.

    `AUC_per_image` gives the AUC of a frame. `AUCs` gives one number per fixation, which has the same mean,
    and sorts once.
    """
    label = "AUC, 1280x720: pysaliency's"
    rows = (
        Row(f"{label} over ours", "AUC_per_image", "ours", bound=5),
        Row(f"{label} with one sort over ours", "AUCs", "ours", bound=3),
    )
    return (Benchmark("AUC", 20, rows, _open_auc),)


@contextmanager
def _open_auc(_folder: Path) -> Iterator[Mapping[str, Contestant]]:
    try:
        import pysaliency
    except ImportError as error:
        raise InputError(f"{error}: pip install -c constraints.txt '.[oracle]'") from None
    rng = np.random.default_rng(0)
    logits = [cv2.resize(rng.normal(0, 2, (36, 64)), (1280, 720)).astype(np.float32) for _ in range(6)]
    maps = [np.exp(values) for values in logits]
    points = [rng.integers(0, (720, 1280), (count, 2)) for count in (10, 30, 100) * 2]

    class Maps(pysaliency.SaliencyMapModel):  # type: ignore[misc]
        def saliency_map(self, stimulus: pysaliency.datasets.Stimulus) -> object:
            return maps[stimulus.stimulus_data[0, 0]]

        _saliency_map = saliency_map

    stimuli = pysaliency.Stimuli([np.full((720, 1280), index, np.uint8) for index in range(len(maps))])
    all_points = np.concatenate(points)
    fixations = pysaliency.Fixations.create_without_history(
        x=all_points[:, 1],
        y=all_points[:, 0],
        n=np.repeat(range(len(maps)), [len(map_points) for map_points in points]),
    )
    model = Maps()
    vars(np).setdefault("trapz", np.trapezoid)  # AUC_per_image uses its name before numpy 2.4
    yield {
        "AUC_per_image": timed(
            lambda: model.AUC_per_image(stimuli, fixations),
            work=len(maps),
            comparable=False,
            clock=time.process_time,
        ),
        "AUCs": timed(
            lambda: model.AUCs(stimuli, fixations), work=len(maps), comparable=False, clock=time.process_time
        ),
        "ours": timed(
            lambda: [
                auc_judd(saliency, map_points) for saliency, map_points in zip(maps, points, strict=True)
            ],
            work=len(maps),
            clock=time.process_time,
        ),
    }
