"""Metrics against pysaliency's."""

from __future__ import annotations

import cv2
import numpy as np

from edge.metrics.saliency import auc_judd
from tests.bench.rows import Row, turns


def metric_rows() -> list[Row]:
    """AUC of a batch of 1280x720 maps, on one core, against pysaliency's `AUC_per_image` and `AUCs`.

    The former is its AUC of a frame; the latter, one number a fixation, has the same mean and sorts once.
    """
    try:
        import pysaliency
    except ImportError as error:
        print(f"AUC against pysaliency: skipped, {error}: pip install -c constraints.txt '.[oracle]'")
        return []
    rng = np.random.default_rng(0)
    logits = [cv2.resize(rng.normal(0, 2, (36, 64)), (1280, 720)).astype(np.float32) for _ in range(6)]
    maps = [np.exp(values) for values in logits]
    points = [rng.integers(0, (720, 1280), (count, 2)) for count in (10, 30, 100) * 2]

    class Maps(pysaliency.SaliencyMapModel):  # type: ignore[misc]
        def saliency_map(self, stimulus: pysaliency.datasets.Stimulus) -> object:
            return maps[stimulus.stimulus_data[0, 0]]

        _saliency_map = saliency_map

    stimuli = pysaliency.Stimuli([np.full((720, 1280), index, np.uint8) for index in range(len(maps))])
    places = np.concatenate(points)
    fixations = pysaliency.Fixations.create_without_history(
        x=places[:, 1], y=places[:, 0], n=np.repeat(range(len(maps)), [len(at) for at in points])
    )
    model = Maps()
    vars(np).setdefault("trapz", np.trapezoid)  # AUC_per_image calls it by its name before numpy 2.4
    seconds = turns(
        {
            "AUC_per_image": lambda: model.AUC_per_image(stimuli, fixations),
            "AUCs": lambda: model.AUCs(stimuli, fixations),
            "ours": lambda: [auc_judd(saliency, at) for saliency, at in zip(maps, points, strict=True)],
        },
        calls=1,
        rounds=20,
    )
    print({name: f"{value * 1e3 / len(maps):.2f} ms a map" for name, value in seconds.items()})
    what, ours = "AUC, 1280x720: pysaliency's", seconds["ours"]
    return [
        Row(f"{what} over ours", seconds["AUC_per_image"] / ours, "x", 5, True),
        Row(f"{what} sorting once over ours", seconds["AUCs"] / ours, "x", 3, True),
    ]
