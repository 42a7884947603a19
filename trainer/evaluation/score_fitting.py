"""Fitting of the calibration of the score on simulated scenes with and without targets.

Real sequences are not used, because a release ships its calibration and their licences forbid that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.score_calibration import ScoreCalibration, map_focus
from edge.postprocessing.regions import find_regions
from edge.release.manifest import save_score
from trainer.datasets.clips import Box
from trainer.evaluation.candidate_maps import Candidate, clip_records
from trainer.evaluation.false_alarms import is_on_target
from trainer.evaluation.quality_clips import (
    FITTING_SEED,
    QualityClip,
    featureless_clips,
    made_clips,
)
from trainer.inference.predictor import Map

SCENES, FEATURELESS = 150, 75
"""Scenes, each with and without its actors, and featureless clips."""
STEPS = 50
"""Newton's steps of the logistic regression; it converges in about ten."""
RIDGE = 1e-3
"""Keeps the weights finite where the classes can be separated."""
MIN_SHARE_WEIGHT = 0.25
"""Regions of a frame are ranked by their shares, so a larger share may not lower the score."""
Array = NDArray[np.float64]


def fitting_clips(scenes: int = SCENES, featureless: int = FEATURELESS) -> Iterator[QualityClip]:
    """Yield the clips that the score is fitted on."""
    return chain(
        made_clips(FITTING_SEED, scenes, targets=True),
        made_clips(FITTING_SEED, scenes, targets=False),
        featureless_clips(FITTING_SEED, featureless),
    )


def fit_scores(
    candidates: Sequence[Candidate],
    scenes: int = SCENES,
    featureless: int = FEATURELESS,
    on_clip: Callable[[], object] = lambda: None,
) -> list[ScoreCalibration]:
    """Fit the calibration of the score of each candidate. A clip is drawn once for all of them.

    Args:
        candidates: The candidates.
        scenes: Number of scenes.
        featureless: Number of featureless clips.
        on_clip: Called after each clip.

    Raises:
        InputError: No region lies on a target, or as a candidate's predictor does.
    """
    frames: list[list[_Frame]] = [[] for _ in candidates]
    for clip in fitting_clips(scenes, featureless):
        boxes = clip.boxes()
        unclear = clip.unclear() if clip.unclear is not None else [False] * len(boxes)
        for own, record in zip(frames, clip_records(candidates, clip), strict=True):
            own += [
                _describe(saliency, frame_boxes, record.size)
                for saliency, frame_boxes, is_unclear in zip(record.maps, boxes, unclear, strict=True)
                if not is_unclear
            ]
        on_clip()
    return [_fit(candidate.name, own) for candidate, own in zip(candidates, frames, strict=True)]


@dataclass(frozen=True)
class _Frame:
    """What the score of a frame's regions is fitted on.

    Attributes:
        has_target: A target is visible.
        values: (regions, 2): log2 of the share of each region, and of the focus of the map.
        on_target: (regions,): the region lies on a target.
    """

    has_target: bool
    values: Array
    on_target: NDArray[np.bool_]


def _describe(saliency: Map, boxes: list[Box], size: tuple[int, int]) -> _Frame:
    regions, focus = find_regions(saliency), np.log2(map_focus(saliency))
    cells = saliency.shape[1], saliency.shape[0]
    return _Frame(
        bool(boxes),
        np.array([(np.log2(region.share), focus) for region in regions]).reshape(-1, 2),
        np.array([any(is_on_target(region, box, size, cells) for box in boxes) for region in regions], bool),
    )


def _fit(name: str, frames: Sequence[_Frame]) -> ScoreCalibration:
    """Fit one calibration by logistic regression over the regions of all frames.

    Frames with and without targets weigh the same in all. The threshold is that of W. Youden's index
    ("Index for rating diagnostic tests", Cancer, 1950): the share of the found targets that it reports less
    the share of the target-free frames that report a region is the largest.
    """
    values = np.concatenate([frame.values for frame in frames])
    on_target = np.concatenate([frame.on_target for frame in frames])
    if not on_target.any() or on_target.all():
        raise InputError(
            f"cannot calibrate the score of {name}: none, or all, of its regions lie on targets; "
            "expected a trained student"
        )
    has_target = np.repeat([frame.has_target for frame in frames], [len(f.values) for f in frames])
    weights = np.where(has_target, 0.5 / has_target.sum(), 0.5 / max(1, (~has_target).sum()))
    share, focus, offset = _fit_logistic(values, on_target.astype(np.float64), weights)
    calibration = ScoreCalibration(round(share, 4), round(focus, 4), round(offset, 4), 0.0)

    def highest(frame: _Frame, chosen: NDArray[np.bool_]) -> float:
        scores = [calibration.score(*np.exp2(pair)) for pair in frame.values[chosen]]
        return max(scores, default=0.0)

    found = [highest(frame, frame.on_target) for frame in frames if frame.on_target.any()]
    empty = [highest(frame, ~frame.on_target) for frame in frames if not frame.has_target]
    return replace(calibration, threshold=_youden_threshold(np.array(found), np.array(empty)))


def write_score(candidate: Candidate, calibration: ScoreCalibration) -> None:
    """Write a calibration into the manifest of a release; its other keys and files stay.

    Raises:
        InputError: The candidate is not a release.
    """
    if candidate.release is None:
        raise InputError(f"{candidate.name} is not a release; expected one whose score can be calibrated")
    candidate.release = save_score(candidate.release, calibration)


def _fit_logistic(values: Array, labels: Array, weights: Array) -> tuple[float, float, float]:
    """Return the weights of both columns and the offset; the first weight is at least `MIN_SHARE_WEIGHT`."""
    ones = np.ones(len(values))
    share, focus, offset = _newton(np.column_stack([values, ones]), labels, weights, 0 * ones)
    if share < MIN_SHARE_WEIGHT:
        share = MIN_SHARE_WEIGHT
        fixed = share * values[:, 0]
        focus, offset = _newton(np.column_stack([values[:, 1], ones]), labels, weights, fixed)
    return float(share), float(focus), float(offset)


def _newton(columns: Array, labels: Array, weights: Array, fixed: Array) -> Array:
    """Return the weights of a logistic regression whose log-odds contain the fixed term."""
    solution = np.zeros(columns.shape[1])
    ridge = RIDGE / len(labels) * np.eye(columns.shape[1])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-(columns @ solution + fixed)))
        gradient = columns.T @ (weights * (labels - probability)) - ridge @ solution
        curvature = columns.T @ (columns * (weights * probability * (1 - probability))[:, None]) + ridge
        solution = solution + np.linalg.solve(curvature, gradient)
    return solution


def _youden_threshold(found: Array, empty: Array) -> float:
    """Return the threshold with the largest Youden index, rounded to 0.01."""
    grid = np.arange(1, 100) / 100
    index = [(found >= level).mean() - (empty >= level).mean() for level in grid]
    return float(grid[int(np.argmax(index))])
