"""How well maps tell where viewers look: frames to videos to a mean, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.metrics import auc_borji, auc_judd, cc, kld, nss, sauc, sim
from edge.proxy import box_scores
from trainer.datasets.clips import Clip, Dataset, LabelledFrame, Truth
from trainer.predict import Map, Predictor

SCHEMA = 1
RESAMPLES, SEED = 2000, 0
"""Of the bootstrap over videos."""
OTHER_FRAMES, OTHER_FIXATIONS = 20, 10_000
"""Shuffled AUC: its negatives are from this many frames of each other video, and so many at most."""
SHOWN = 4
"""Best and worst frames kept, one a video."""
RANKED_BY: dict[Truth, str] = {"density": "cc", "fixations": "nss", "box": "box_auc"}
"""Best and worst are by the metric of the first truth that there is."""


@dataclass(frozen=True)
class Metric:
    """A metric: its key in results, what a reader calls it, and what it needs to be known.

    `function` takes a map and that truth; with `others`, other videos' fixations too. None: the scores
    of `edge.proxy`, which come together.
    """

    name: str
    title: str
    needs: Truth
    function: Callable[..., float] | None = None
    others: bool = False
    better: str = "higher"


METRICS = (
    Metric("auc_judd", "AUC-Judd", "fixations", auc_judd),
    Metric("auc_borji", "AUC-Borji", "fixations", auc_borji),
    Metric("sauc", "sAUC", "fixations", sauc, others=True),
    Metric("nss", "NSS", "fixations", nss),
    Metric("cc", "CC", "density", cc),
    Metric("sim", "SIM", "density", sim),
    Metric("kld", "KLD", "density", kld, better="lower"),
    Metric("box_auc", "box AUC", "box"),
    Metric("box_z", "box z", "box"),
    Metric("box_zblur", "box zblur", "box"),
    Metric("box_hit", "box hit", "box"),
)


@dataclass(frozen=True)
class Score:
    """A metric's mean over videos; `low` and `high` bound its 95 % interval, None for one video."""

    mean: float
    low: float | None
    high: float | None
    videos: int
    frames: int


@dataclass(frozen=True)
class Video:
    """A video's means over its frames, by metric."""

    name: str
    split: str | None
    frames: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Shown:
    """A frame with its map, and its score by the metric that ranks."""

    clip: str
    frame: LabelledFrame
    saliency: Map
    score: float


@dataclass(frozen=True)
class Evaluation:
    """What was found. `skipped` tells why a metric has no score. `best`, `worst`: most extreme first."""

    predictor: str
    scores: dict[str, Score]
    skipped: dict[str, str]
    videos: list[Video]
    ranked_by: str
    best: list[Shown]
    worst: list[Shown]

    def document(self, dataset: Dataset, max_frames: int | None) -> dict[str, Any]:
        """Return all but the pictures as JSON's types."""
        return {
            "schema": SCHEMA,
            "maps": self.predictor,
            "dataset": {
                "kind": dataset.kind,
                "root": str(dataset.root),
                "split": dataset.split,
                "max_frames": max_frames,
                "missing": dataset.missing(),
                "faults": dataset.named_faults(),
            },
            "protocol": {
                "average": "frames, then videos",
                "interval": "95 %, bootstrap over videos",
                "resamples": RESAMPLES,
                "seed": SEED,
            },
            "metrics": {
                m.name: {**asdict(self.scores[m.name]), "better": m.better}
                for m in METRICS
                if m.name in self.scores
            },
            "skipped": self.skipped,
            "videos": [asdict(video) for video in self.videos],
        }


def evaluate(
    dataset: Dataset,
    predictor: Predictor,
    max_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score the maps of the labelled clips' frames, the first `max_frames` of each.

    Maps are stretched to the frame bilinearly, and nothing else is done to them. Frames where a
    metric is not defined (no fixation, an all-zero density) do not count for it.

    Raises:
        InputError: no frame has any truth, a map is not finite, or as the predictor does.
    """
    clips = [clip for clip in dataset.clips if clip.truths]
    truths = frozenset[Truth]().union(*(clip.truths for clip in clips))
    ranked_by = next((name for truth, name in RANKED_BY.items() if truth in truths), "")
    others = _Others(clips)
    videos: list[Video] = []
    counts = {metric.name: 0 for metric in METRICS}
    best: list[Shown] = []
    worst: list[Shown] = []
    for clip in clips:
        values: dict[str, list[float]] = {}
        shown: list[Shown] = []
        negatives = others.than(clip)
        for frame, saliency in predictor.maps(clip.name, clip.frames(0, max_frames)):
            if not np.isfinite(saliency).all():
                raise InputError(f"the map of {clip.name}, frame {frame.index}, is not finite: it is broken")
            found = _score(frame, saliency, negatives)
            for name, value in found.items():
                values.setdefault(name, []).append(value)
            if ranked_by in found:
                this = Shown(clip.name, frame, saliency.copy(), found[ranked_by])
                shown = _ranked([*shown, this])
                shown = [shown[0], shown[-1]]
            on_frame()
        if values:
            means = {name: float(np.mean(each)) for name, each in values.items()}
            videos.append(Video(clip.name, clip.split, max(map(len, values.values())), means))
        for name, each in values.items():
            counts[name] += len(each)
        worst = _ranked([*worst, *shown[:1]])[:SHOWN]
        best = _ranked([*best, *shown[-1:]])[-SHOWN:]
    if not videos:
        raise InputError(
            f"no frame of {dataset.kind} at {dataset.root} has a density, a fixation or a box; "
            "expected a labelled data set (docs/data.md says where labels lie)"
        )
    scores = {name: _mean(name, videos, count) for name, count in counts.items() if count}
    skipped = {m.name: _why(m, truths) for m in METRICS if m.name not in scores}
    return Evaluation(predictor.description, scores, skipped, videos, ranked_by, best[::-1], worst)


def _ranked(frames: list[Shown]) -> list[Shown]:
    return sorted(frames, key=lambda shown: shown.score)


def _mean(name: str, videos: list[Video], frames: int) -> Score:
    values = [video.scores[name] for video in videos if name in video.scores]
    low, high = interval(values) or (None, None)
    return Score(float(np.mean(values)), low, high, len(values), frames)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by percentile bootstrap, seeded; None for one value."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _score(frame: LabelledFrame, saliency: Map, negatives: NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics that are defined here, by name."""
    height, width = frame.image.shape[:2]
    stretched = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    truths: dict[Truth, NDArray[Any]] = {}
    if frame.density is not None and frame.density.any():
        truths["density"] = frame.density
    if frame.fixations is not None and len(frame.fixations):
        truths["fixations"] = frame.fixations
    found = {}
    for metric in METRICS:
        if metric.function is None or metric.needs not in truths or (metric.others and not len(negatives)):
            continue
        extra = ((negatives * (height, width)).astype(np.int64),) if metric.others else ()
        found[metric.name] = metric.function(stretched, truths[metric.needs], *extra)
    if frame.box is not None:
        box = box_scores(saliency, np.asarray(frame.box), width, height)
        found |= {f"box_{name}": value for name, value in box._asdict().items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


class _Others:
    """Fixations of other videos, as shares of height and width: what shuffled AUC ranks against."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._pools = {}
        for clip in clips:
            every = range(0, len(clip), -(-len(clip) // OTHER_FRAMES) or 1)
            self._pools[clip] = np.concatenate([np.empty((0, 2)), *map(clip.fixation_shares, every)])

    def than(self, clip: Clip) -> NDArray[np.float64]:
        """Return fixations (N, 2) of the others, drawn at random where there are too many."""
        pools = [pool for other, pool in self._pools.items() if other is not clip]
        pool = np.concatenate([np.empty((0, 2)), *pools])
        if len(pool) <= OTHER_FIXATIONS:
            return pool
        drawn: NDArray[np.float64] = np.random.default_rng(SEED).choice(pool, OTHER_FIXATIONS, replace=False)
        return drawn


def _why(metric: Metric, truths: frozenset[Truth]) -> str:
    if metric.needs not in truths:
        return f"no {metric.needs}"
    if metric.others:
        return "no fixations of other videos"
    return "not defined on any frame"
