"""Fitting of the calibration of the score on simulated scenes with and without targets.

Real sequences are not used, because a release ships its calibration and their licences forbid that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.metrics.score_calibration import ScoreCalibration, map_focus
from edge.postprocessing.regions import find_regions
from edge.release.manifest import save_score
from trainer.evaluation.candidate_maps import Candidate, ClipRecord, clip_records
from trainer.evaluation.false_alarms import clip_regions, is_on_target
from trainer.evaluation.quality_clips import (
    FITTING_SEED,
    QualityClip,
    featureless_clips,
    made_clips,
)

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
    clips = []
    for clip in fitting_clips(scenes, featureless):
        clips.append((clip, clip_records(candidates, clip)))
        on_clip()
    return [
        _fit(candidate, [(clip, records[index]) for clip, records in clips])
        for index, candidate in enumerate(candidates)
    ]


def _fit(candidate: Candidate, clips: Sequence[tuple[QualityClip, ClipRecord]]) -> ScoreCalibration:
    """Fit one calibration by logistic regression over the regions of all frames.

    Frames with and without targets weigh the same in all. The threshold is that of W. Youden's index
    ("Index for rating diagnostic tests", Cancer, 1950): the share of the found targets that it reports less
    the share of the target-free frames that report a region is the largest.
    """
    rows: list[tuple[float, float, bool, bool]] = []
    for clip, record in clips:
        for saliency, boxes in zip(record.maps, clip.boxes(), strict=True):
            cells, focus = (saliency.shape[1], saliency.shape[0]), map_focus(saliency)
            for region in find_regions(saliency):
                on_target = any(is_on_target(region, box, record.size, cells) for box in boxes)
                rows.append((np.log2(region.share), np.log2(focus), on_target, clip.kind == "made"))
    table = np.array(rows, np.float64).reshape(-1, 4)
    is_target, with_targets = table[:, 2] > 0, table[:, 3] > 0
    if not is_target.any() or is_target.all():
        raise InputError(
            f"cannot calibrate the score of {candidate.name}: none, or all, of its regions lie on targets; "
            "expected a trained student"
        )
    weights = np.where(with_targets, 0.5 / with_targets.sum(), 0.5 / max(1, (~with_targets).sum()))
    share, focus, offset = _fit_logistic(table[:, :2], is_target.astype(np.float64), weights)
    calibration = ScoreCalibration(round(share, 4), round(focus, 4), round(offset, 4), 0.0)
    regions = [clip_regions(clip, record, calibration) for clip, record in clips]
    found = np.array([score for clip in regions if clip.kind == "made" for score in clip.found])
    empty = np.array([score for clip in regions if clip.kind != "made" for score in clip.top])
    return replace(calibration, threshold=_youden_threshold(found[~np.isnan(found)], empty))


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
