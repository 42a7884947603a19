"""Scores of saliency maps against human gaze: means over frames, then over videos, with intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.box_proxy import box_scores
from edge.metrics.saliency import Convention, auc_borji, auc_judd, cc, ig, kld, nss, sauc, sim
from trainer.datasets.clips import DatasetClip, LabelKind, LabelledFrame, SaliencyDataset
from trainer.inference.predictor import Map, Predictor

SCHEMA = 1
RESAMPLES, SEED = 2000, 0
"""Resamples and seed of the bootstrap over videos."""
OTHER_FRAMES, OTHER_FIXATIONS = 20, 10_000
"""Fixations of other videos: frames sampled per video, and most fixations in all."""
MATLAB_FRAMES = 10
"""Frames whose fixations are the negatives of sAUC in Matlab's convention."""
BASELINE_SIDE, BASELINE_SIGMA = 64, 0.05
"""Baseline of IG: side of the square grid, and sigma of its blur as a share of that side."""
UNIFORM_SHARE = 0.01
"""Share of the uniform density mixed into both maps of IG, because 8-bit maps are 0 at many fixations.
Matlab's convention mixes nothing in."""
RANKED_FRAMES = 4
"""Best and worst frames kept, at most one per video."""
RANKED_BY: dict[LabelKind, str] = {"density": "cc", "fixations": "nss", "box": "box_auc"}
"""Metric that ranks frames, by the first kind of truth that the data set has."""


@dataclass(frozen=True)
class Metric:
    """Metric: its key in results, its title, and the truth that it needs.

    Attributes:
        function: Called with a map, the truth and the convention; before the convention with the data
            that `others` names. None: one of the scores of `edge.metrics.box_proxy`, which are computed
            together.
        others: Data of other videos that the function needs: their fixations, or a map of these.
    """

    name: str
    title: str
    needs: LabelKind
    function: Callable[..., float] | None = None
    others: Literal["fixations", "baseline"] | None = None
    better: str = "higher"


def _kld(saliency: Map, density: Map, convention: Convention) -> float:
    """Return `kld`, which is the same in both conventions."""
    del convention
    return kld(saliency, density)


def _ig(saliency: Map, fixations: NDArray[np.int64], baseline: Map, convention: Convention) -> float:
    """Return `ig`; outside Matlab's convention both maps are mixed with the uniform density first."""
    if convention == "matlab":
        return ig(saliency, baseline, fixations, "matlab")
    return ig(_mix_with_uniform(saliency), _mix_with_uniform(baseline), fixations)


def _mix_with_uniform(values: Map) -> NDArray[np.float64]:
    total = float(values.sum(dtype=np.float64))
    density = values / total if total > 0 else np.full(values.shape, 1 / values.size)
    return np.asarray((1 - UNIFORM_SHARE) * density + UNIFORM_SHARE / values.size, np.float64)


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
    """Mean of a metric over videos; `low` and `high` bound its 95 % interval, None for one video."""

    mean: float
    low: float | None
    high: float | None
    videos: int
    frames: int


@dataclass(frozen=True)
class VideoScores:
    """Means of a video over its frames, by metric."""

    name: str
    split: str | None
    frames: int
    scores: dict[str, float]


@dataclass(frozen=True)
class RankedFrame:
    """Frame with its map, and its score by the ranking metric."""

    clip: str
    frame: LabelledFrame
    saliency: Map
    score: float


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        predictor: Description of the predictor.
        scores: Score of each metric that is defined for the data set.
        skipped: Reason why a metric has no score, for each of the others.
        ranked_by: Name of the metric that ranks frames.
        best: Frames with the highest scores, the highest first.
        worst: Frames with the lowest scores, the lowest first.
    """

    predictor: str
    convention: Convention
    scores: dict[str, MetricScore]
    skipped: dict[str, str]
    videos: list[VideoScores]
    ranked_by: str
    best: list[RankedFrame]
    worst: list[RankedFrame]

    def to_dict(self, dataset: SaliencyDataset, max_frames: int | None) -> dict[str, Any]:
        """Return everything except the pictures, as JSON types."""
        return {
            "schema": SCHEMA,
            "maps": self.predictor,
            "dataset": {
                "kind": dataset.kind,
                "root": str(dataset.root),
                "split": dataset.split,
                "max_frames": max_frames,
                "missing": dataset.missing_labels(),
                "faults": dataset.describe_faults(),
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


def evaluate_predictor(
    dataset: SaliencyDataset,
    predictor: Predictor,
    max_frames: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
    convention: Convention = "pysaliency",
) -> Evaluation:
    """Score a predictor on the labelled frames of a data set.

    Maps are resized to the frame bilinearly and not changed otherwise. A frame on which a metric is not
    defined (no fixation, an all-zero density) does not count for that metric.

    Args:
        dataset: Clips with their labels.
        predictor: Source of the maps.
        max_frames: Score only this many first frames of each clip.
        on_frame: Called after each frame.
        convention: Convention of `edge.metrics.saliency`.

    Raises:
        InputError: No frame has any truth, a map is not finite, or as the predictor does.
    """
    clips = [clip for clip in dataset.clips if clip.label_kinds]
    truths = frozenset[LabelKind]().union(*(clip.label_kinds for clip in clips))
    ranked_by = next((name for truth, name in RANKED_BY.items() if truth in truths), "")
    others = _OtherFixations(clips)
    videos: list[VideoScores] = []
    frame_counts = {metric.name: 0 for metric in METRICS}
    best: list[RankedFrame] = []
    worst: list[RankedFrame] = []
    for clip in clips:
        scored = _score_clip(clip, predictor, others, convention, ranked_by, max_frames, on_frame)
        if scored.values:
            videos.append(scored.to_video(clip))
        for name, values in scored.values.items():
            frame_counts[name] += len(values)
        # At most one frame per video and end, so that a single video does not fill the contact sheet.
        worst = _sort([*worst, *scored.extremes[:1]])[:RANKED_FRAMES]
        best = _sort([*best, *scored.extremes[-1:]])[-RANKED_FRAMES:]
    if not videos:
        faults = dataset.describe_faults()
        first_fault = f" that can be used (the first fault: {faults[0]})" if faults else ""
        raise InputError(
            f"no frame of {dataset.kind} at {dataset.root} has a density, a fixation or a box{first_fault}; "
            f"expected {dataset.describe_label_places()}"
        )
    scores = {name: _average(name, videos, count) for name, count in frame_counts.items() if count}
    skipped = {m.name: _skip_reason(m, truths) for m in METRICS if m.name not in scores}
    return Evaluation(
        predictor=predictor.description,
        convention=convention,
        scores=scores,
        skipped=skipped,
        videos=videos,
        ranked_by=ranked_by,
        best=best[::-1],
        worst=worst,
    )


@dataclass
class _ClipScores:
    """Scores of a clip's frames by metric, and its lowest and highest ranked frame (none, or both)."""

    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    extremes: list[RankedFrame] = field(default_factory=list)

    def to_video(self, clip: DatasetClip) -> VideoScores:
        means = {name: float(np.mean(values)) for name, values in self.values.items()}
        return VideoScores(clip.name, clip.split, max(map(len, self.values.values())), means)


def _score_clip(
    clip: DatasetClip,
    predictor: Predictor,
    others: _OtherFixations,
    convention: Convention,
    ranked_by: str,
    max_frames: int | None,
    on_frame: Callable[[], None],
) -> _ClipScores:
    scored = _ClipScores()
    negatives = others.excluding(clip, MATLAB_FRAMES if convention == "matlab" else None)
    baseline = _baseline(others.excluding(clip))
    for frame, saliency in predictor.predict(clip.name, clip.frames(0, max_frames)):
        if not np.isfinite(saliency).all():
            raise InputError(
                f"the map of {clip.name}, frame {frame.index}, is not finite; expected finite values: "
                "the model is broken"
            )
        frame_scores = _score_frame(frame, saliency, negatives, baseline, convention)
        for name, value in frame_scores.items():
            scored.values[name].append(value)
        if ranked_by in frame_scores:
            ranked = RankedFrame(clip.name, frame, saliency.copy(), frame_scores[ranked_by])
            ordered = _sort([*scored.extremes, ranked])
            scored.extremes = [ordered[0], ordered[-1]]
        on_frame()
    return scored


def _sort(frames: list[RankedFrame]) -> list[RankedFrame]:
    return sorted(frames, key=lambda ranked: ranked.score)


def _average(name: str, videos: list[VideoScores], frames: int) -> MetricScore:
    values = [video.scores[name] for video in videos if name in video.scores]
    low, high = confidence_interval(values) or (None, None)
    return MetricScore(float(np.mean(values)), low, high, len(values), frames)


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean by a seeded percentile bootstrap; None for one value."""
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.asarray(values)[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _score_frame(
    frame: LabelledFrame,
    saliency: Map,
    negatives: NDArray[np.float64],
    baseline: Map,
    convention: Convention,
) -> dict[str, float]:
    """Return the metrics that are defined on a frame, by name."""
    height, width = frame.image.shape[:2]
    resized = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    truths: dict[LabelKind, NDArray[Any]] = {}
    if frame.density is not None and frame.density.any():
        truths["density"] = frame.density
    if frame.fixations is not None and len(frame.fixations):
        truths["fixations"] = frame.fixations
    scores = {}
    for metric in METRICS:
        if metric.function is None or metric.needs not in truths or (metric.others and not len(negatives)):
            continue
        extra: tuple[NDArray[Any], ...] = ()
        if metric.others == "fixations":
            extra = ((negatives * (height, width)).astype(np.int64),)
        elif metric.others == "baseline":
            extra = (cv2.resize(baseline, (width, height), interpolation=cv2.INTER_LINEAR),)
        scores[metric.name] = metric.function(resized, truths[metric.needs], *extra, convention)
    if frame.box is not None:
        box = box_scores(saliency, np.asarray(frame.box), width, height)
        scores |= {f"box_{name}": value for name, value in box._asdict().items()}
    return {name: value for name, value in scores.items() if not math.isnan(value)}


class _OtherFixations:
    """Fixations of other videos, as shares of height and width. sAUC and IG compare with them."""

    def __init__(self, clips: Sequence[DatasetClip]) -> None:
        self._pools = {}
        for clip in clips:
            sampled = range(0, len(clip), -(-len(clip) // OTHER_FRAMES) or 1)
            fixations = map(clip.relative_fixations, sampled)
            self._pools[clip] = [shares for shares in fixations if len(shares)]

    def excluding(self, clip: DatasetClip, max_frames: int | None = None) -> NDArray[np.float64]:
        """Return the fixations (N, 2) of all clips except one; too many are sampled at random.

        Args:
            clip: The clip to leave out.
            max_frames: Take the fixations of this many random frames only.
        """
        rng = np.random.default_rng(SEED)
        frames = [frame for other, pool in self._pools.items() if other is not clip for frame in pool]
        if max_frames is not None:
            frames = [frames[i] for i in rng.permutation(len(frames))[:max_frames]]
        pool = np.concatenate([np.empty((0, 2)), *frames])
        if len(pool) <= OTHER_FIXATIONS:
            return pool
        drawn: NDArray[np.float64] = rng.choice(pool, OTHER_FIXATIONS, replace=False)
        return drawn


def _baseline(shares: NDArray[np.float64]) -> Map:
    """Return the mean fixation map (64, 64) of fixations given as shares of height and width."""
    side = BASELINE_SIDE
    counts, _, _ = np.histogram2d(shares[:, 0], shares[:, 1], bins=side, range=((0, 1), (0, 1)))
    blurred = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), BASELINE_SIGMA * side)
    return np.asarray(blurred, np.float32)


def _skip_reason(metric: Metric, truths: frozenset[LabelKind]) -> str:
    if metric.needs not in truths:
        return f"no {metric.needs}"
    if metric.others:
        return "no fixations of other videos"
    return "not defined on any frame"
