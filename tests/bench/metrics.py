"""Speed of the metrics, compared with pysaliency."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.metrics.saliency import auc_judd
from tests.bench.rows import BenchRow, print_note, print_times, time_in_turns


def metric_rows(_folder: Path) -> Iterator[BenchRow]:
    """Yield the speed-up of AUC over pysaliency's `AUC_per_image` and `AUCs`: 1280x720 maps, one core.

    `AUC_per_image` gives the AUC of a frame. `AUCs` gives one number per fixation, which has the same mean,
    and sorts once.
    """
    try:
        import pysaliency
    except ImportError as error:
        print_note(
            f"AUC is not compared with pysaliency, {error}: pip install -c constraints.txt '.[oracle]'"
        )
        return
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
    seconds = time_in_turns(
        {
            "AUC_per_image": lambda: model.AUC_per_image(stimuli, fixations),
            "AUCs": lambda: model.AUCs(stimuli, fixations),
            "ours": lambda: [
                auc_judd(saliency, map_points) for saliency, map_points in zip(maps, points, strict=True)
            ],
        },
        repeats=1,
        rounds=20,
    )
    print_times("AUC per map", seconds, maps=len(maps))
    label, ours_s = "AUC, 1280x720: pysaliency's", seconds["ours"]
    yield BenchRow(f"{label} over ours", seconds["AUC_per_image"] / ours_s, "x", 5)
    yield BenchRow(f"{label} with one sort over ours", seconds["AUCs"] / ours_s, "x", 3)
