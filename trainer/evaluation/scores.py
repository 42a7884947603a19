"""How well maps tell where viewers look: frames to videos to a mean, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.box_proxy import box_scores
from edge.metrics.saliency import Convention, auc_borji, auc_judd, cc, ig, kld, nss, sauc, sim
from trainer.datasets.clips import Clip, Dataset, LabelledFrame, Truth
from trainer.inference.predictors import Map, Predictor

SCHEMA = 1
RESAMPLES, SEED = 2000, 0
"""Of the bootstrap over videos."""
OTHER_FRAMES, OTHER_FIXATIONS = 20, 10_000
"""Fixations of other videos are from this many frames of each, and so many at most."""
MATLAB_FRAMES = 10
"""In Matlab's convention sAUC's are from this many random ones of these frames."""
BASELINE_SIDE, BASELINE_SIGMA = 64, 0.05
"""IG's baseline: fixations of other videos on a square grid, blurred by this share of its side."""
FLOOR = 0.01
"""Share of the uniform density in both maps of IG: 8-bit maps are 0 on many a fixation. Not in Matlab's."""
RANKED_FRAMES = 4
"""Best and worst frames kept, one a video."""
RANKED_BY: dict[Truth, str] = {"density": "cc", "fixations": "nss", "box": "box_auc"}
"""Best and worst are by the metric of the first truth that there is."""


@dataclass(frozen=True)
class Metric:
    """A metric: its key in results, what a reader calls it, and what it needs to be known.

    `function` takes a map, that truth and the convention; `others` in between: other videos' fixations
    ("fixations"), or a map of them ("baseline"). None: the scores of `edge.metrics.box_proxy`, which come
    together.
    """

    name: str
    title: str
    needs: Truth
    function: Callable[..., float] | None = None
    others: Literal["fixations", "baseline"] | None = None
    better: str = "higher"


def _kld(saliency: Map, density: Map, convention: Convention) -> float:
    """Return `kld`, which is the same in both conventions."""
    del convention
    return kld(saliency, density)


def _ig(saliency: Map, fixations: NDArray[np.int64], baseline: Map, convention: Convention) -> float:
    """Return `ig`, over a floor where the convention has none."""
    if convention == "matlab":
        return ig(saliency, baseline, fixations, "matlab")
    return ig(_floored(saliency), _floored(baseline), fixations)


def _floored(values: Map) -> NDArray[np.float64]:
    total = float(values.sum(dtype=np.float64))
    share = values / total if total > 0 else np.full(values.shape, 1 / values.size)
    return np.asarray((1 - FLOOR) * share + FLOOR / values.size, np.float64)


METRICS = (
    Metric("auc_judd", "AUC-Judd", "fixations", auc_judd),
    Metric("auc_borji", "AUC-Borji", "fixations", auc_borji),
    Metric("sauc", "sAUC", "fixations", sauc, others="fixations"),
    Metric("nss", "NSS", "fixations", nss),
    Metric("ig", "IG", "fixations", _ig, others="baseline"),
    Metric("cc", "CC", "density", cc),
    Metric("sim", "SIM", "density", sim),
    Metric("kld", "KLD", "density", _kld, better="lower"),
    Metric("box_auc", "box AUC", "box"),
    Metric("box_z", "box z", "box"),
    Metric("box_zblur", "box zblur", "box"),
    Metric("box_hit", "box hit", "box"),
)


@dataclass(frozen=True)
class MetricScore:
    """A metric's mean over videos; `low` and `high` bound its 95 % interval, None for one video."""

    mean: float
    low: float | None
    high: float | None
    videos: int
    frames: int


@dataclass(frozen=True)
class VideoScores:
    """A video's means over its frames, by metric."""

    name: str
    split: str | None
    frames: int
    scores: dict[str, float]


@dataclass(frozen=True)
class RankedFrame:
    """A frame with its map, and its score by the metric that ranks."""

    clip: str
    frame: LabelledFrame
    saliency: Map
    score: float


@dataclass(frozen=True)
class Evaluation:
    """What was found. `skipped` tells why a metric has no score. `best`, `worst`: most extreme first."""

    predictor: str
    convention: Convention
    scores: dict[str, MetricScore]
    skipped: dict[str, str]
    videos: list[VideoScores]
    ranked_by: str
    best: list[RankedFrame]
    worst: list[RankedFrame]

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
                "convention": self.convention,
                "ig_baseline": "fixations of the data set's other videos, blurred",
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
    convention: Convention = "pysaliency",
) -> Evaluation:
    """Score the maps of the labelled clips' frames, the first `max_frames` of each.

    Maps are stretched to the frame bilinearly, and nothing else is done to them. Frames where a
    metric is not defined (no fixation, an all-zero density) do not count for it. `convention` is that
    of `edge.metrics.saliency`.

    Raises:
        InputError: no frame has any truth, a map is not finite, or as the predictor does.
    """
    clips = [clip for clip in dataset.clips if clip.truths]
    truths = frozenset[Truth]().union(*(clip.truths for clip in clips))
    ranked_by = next((name for truth, name in RANKED_BY.items() if truth in truths), "")
    others = _Others(clips)
    videos: list[VideoScores] = []
    counts = {metric.name: 0 for metric in METRICS}
    best: list[RankedFrame] = []
    worst: list[RankedFrame] = []
    for clip in clips:
        values: dict[str, list[float]] = {}
        shown: list[RankedFrame] = []
        negatives = others.than(clip, MATLAB_FRAMES if convention == "matlab" else None)
        baseline = _baseline(others.than(clip))
        for frame, saliency in predictor.maps(clip.name, clip.frames(0, max_frames)):
            if not np.isfinite(saliency).all():
                raise InputError(f"the map of {clip.name}, frame {frame.index}, is not finite: it is broken")
            found = _score(frame, saliency, negatives, baseline, convention)
            for name, value in found.items():
                values.setdefault(name, []).append(value)
            if ranked_by in found:
                this = RankedFrame(clip.name, frame, saliency.copy(), found[ranked_by])
                shown = _ranked([*shown, this])
                shown = [shown[0], shown[-1]]
            on_frame()
        if values:
            means = {name: float(np.mean(each)) for name, each in values.items()}
            videos.append(VideoScores(clip.name, clip.split, max(map(len, values.values())), means))
        for name, each in values.items():
            counts[name] += len(each)
        worst = _ranked([*worst, *shown[:1]])[:RANKED_FRAMES]
        best = _ranked([*best, *shown[-1:]])[-RANKED_FRAMES:]
    if not videos:
        raise InputError(
            f"no frame of {dataset.kind} at {dataset.root} has a density, a fixation or a box; "
            "expected a labelled data set (docs/data.md says where labels lie)"
        )
    scores = {name: _mean(name, videos, count) for name, count in counts.items() if count}
    skipped = {m.name: _why(m, truths) for m in METRICS if m.name not in scores}
    return Evaluation(
        predictor.description, convention, scores, skipped, videos, ranked_by, best[::-1], worst
    )


def _ranked(frames: list[RankedFrame]) -> list[RankedFrame]:
    return sorted(frames, key=lambda shown: shown.score)


def _mean(name: str, videos: list[VideoScores], frames: int) -> MetricScore:
    values = [video.scores[name] for video in videos if name in video.scores]
    low, high = confidence_interval(values) or (None, None)
    return MetricScore(float(np.mean(values)), low, high, len(values), frames)


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by percentile bootstrap, seeded; None for one value."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _score(
    frame: LabelledFrame,
    saliency: Map,
    negatives: NDArray[np.float64],
    baseline: Map,
    convention: Convention,
) -> dict[str, float]:
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
        extra: tuple[NDArray[Any], ...] = ()
        if metric.others == "fixations":
            extra = ((negatives * (height, width)).astype(np.int64),)
        elif metric.others == "baseline":
            extra = (cv2.resize(baseline, (width, height), interpolation=cv2.INTER_LINEAR),)
        found[metric.name] = metric.function(stretched, truths[metric.needs], *extra, convention)
    if frame.box is not None:
        box = box_scores(saliency, np.asarray(frame.box), width, height)
        found |= {f"box_{name}": value for name, value in box._asdict().items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


class _Others:
    """Fixations of other videos, as shares of height and width: what sAUC and IG compare with."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._pools = {}
        for clip in clips:
            every = range(0, len(clip), -(-len(clip) // OTHER_FRAMES) or 1)
            self._pools[clip] = [found for found in map(clip.fixation_shares, every) if len(found)]

    def than(self, clip: Clip, most: int | None = None) -> NDArray[np.float64]:
        """Return fixations (N, 2) of the others, drawn at random where there are too many.

        With `most` they are from so many random frames.
        """
        rng = np.random.default_rng(SEED)
        frames = [frame for other, pool in self._pools.items() if other is not clip for frame in pool]
        if most is not None:
            frames = [frames[i] for i in rng.permutation(len(frames))[:most]]
        pool = np.concatenate([np.empty((0, 2)), *frames])
        if len(pool) <= OTHER_FIXATIONS:
            return pool
        drawn: NDArray[np.float64] = rng.choice(pool, OTHER_FIXATIONS, replace=False)
        return drawn


def _baseline(shares: NDArray[np.float64]) -> Map:
    """Return the mean fixation map (64, 64) of places given as shares of height and width."""
    side = BASELINE_SIDE
    counts, _, _ = np.histogram2d(shares[:, 0], shares[:, 1], bins=side, range=((0, 1), (0, 1)))
    blurred = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), BASELINE_SIGMA * side)
    return np.asarray(blurred, np.float32)


def _why(metric: Metric, truths: frozenset[Truth]) -> str:
    if metric.needs not in truths:
        return f"no {metric.needs}"
    if metric.others:
        return "no fixations of other videos"
    return "not defined on any frame"
