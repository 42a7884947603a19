"""False alarms: how often a region is reported where there is no target.

A frame reports a target if a region with a score from the threshold has its centre in the grown box of the
target. A frame without a target gives a false alarm if it reports any region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edge.metrics.score_calibration import ScoreCalibration
from edge.postprocessing.regions import Region, find_regions
from trainer.datasets.clips import Box
from trainer.evaluation.candidate_maps import ClipRecord
from trainer.evaluation.quality_clips import EMPTY_KINDS, ClipKind, QualityClip

REPORTED_SHARE = 0.9
"""Share of the found targets of the tuning places that the threshold still reports."""
SCORE_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Edges of the bins of `reliability`."""
MARGIN = 0.25
"""Growth of a box, as a share of its side; at least `MARGIN_CELLS` cells of the map."""
MARGIN_CELLS = 1.0


@dataclass(frozen=True)
class ClipRegions:
    """Scores of the regions of a clip.

    Attributes:
        place: Place of the clip; None for made clips.
        kind: Kind of the clip.
        top: Highest score of any region in each frame; 0 without a region.
        found: In each frame with a target, the highest score of a region on it; NaN without one.
        first: Score of the first region in each frame with a target, and whether it lies on the target.
    """

    place: str | None
    kind: ClipKind
    top: tuple[float, ...]
    found: tuple[float, ...]
    first: tuple[tuple[float, bool], ...] = ()


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms at a threshold.

    Attributes:
        threshold: Mean threshold over the folds, or the one of the release.
        reported: Share of the frames with a target that report it.
        alarms: Mean over the kinds of target-free frames of the share that reports a region.
        by_kind: That share for each kind.
    """

    threshold: float
    reported: float
    alarms: float
    by_kind: dict[str, float]


@dataclass(frozen=True)
class ScoreBin:
    """First regions with a score from `low` to `high`: number of frames, and share on the target."""

    low: float
    high: float
    frames: int
    on_target: float | None


def clip_regions(clip: QualityClip, record: ClipRecord, calibration: ScoreCalibration | None) -> ClipRegions:
    """Return the scores of a clip's regions.

    Args:
        clip: The clip.
        record: Its maps.
        calibration: Calibration of the scores; None scores regions by their share of the map.
    """
    top: list[float] = []
    found: list[float] = []
    first: list[tuple[float, bool]] = []
    for saliency, boxes in zip(record.maps, clip.boxes(), strict=True):
        regions = find_regions(saliency, calibration=calibration)
        top.append(max((region.score for region in regions), default=0.0))
        if boxes:
            cells = saliency.shape[1], saliency.shape[0]
            on_target = [any(is_on_target(r, box, record.size, cells) for box in boxes) for r in regions]
            scores = [region.score for region, is_hit in zip(regions, on_target, strict=True) if is_hit]
            found.append(max(scores, default=float("nan")))
            if regions:
                first.append((regions[0].score, on_target[0]))
    return ClipRegions(clip.place, clip.kind, tuple(top), tuple(found), tuple(first))


def is_on_target(region: Region, box: Box, size: tuple[int, int], cells: tuple[int, int]) -> bool:
    """Return whether the centre of a region lies in a box after it has grown.

    Args:
        region: The region.
        box: x, y, w, h in pixels.
        size: Width and height of the frame in pixels.
        cells: Width and height of the map.
    """
    for centre, start, length, side, count in zip(
        (region.x, region.y), box[:2], box[2:], size, cells, strict=True
    ):
        margin = max(MARGIN * length, MARGIN_CELLS * side / count) / 2
        if not start - margin <= centre * side <= start + length + margin:
            return False
    return True


def false_alarms_by_place(clips: Sequence[ClipRegions]) -> dict[str, FalseAlarms]:
    """Return the false alarms of each place, at the threshold of the other places.

    The threshold is the score that `REPORTED_SHARE` of the targets found in the other places reach. A place
    is left out if none was found there. Views count for their own place, made and featureless frames for
    each place.
    """
    places = sorted({clip.place for clip in clips if clip.place and clip.kind == "sequence"})
    results = {}
    for place in places:
        tuning = [clip for clip in clips if clip.kind == "sequence" and clip.place != place]
        scores = np.array([score for clip in tuning for score in clip.found])
        scores = scores[~np.isnan(scores)]
        if not scores.size:
            continue
        threshold = float(np.quantile(scores, 1 - REPORTED_SHARE))
        results[place] = _count([clip for clip in clips if clip.place in (place, None)], threshold)
    return results


def false_alarms_at(clips: Sequence[ClipRegions], threshold: float) -> FalseAlarms:
    """Return the false alarms over all clips at one threshold."""
    return _count(clips, threshold)


def reliability(clips: Sequence[ClipRegions]) -> list[ScoreBin]:
    """Return how often the first region of a frame lies on its target, by its score.

    Only one target of a frame has a box, so a region on another one counts as an error.
    """
    pairs = np.array([pair for clip in clips for pair in clip.first], np.float64).reshape(-1, 2)
    index = np.clip(np.digitize(pairs[:, 0], SCORE_EDGES) - 1, 0, len(SCORE_EDGES) - 2)
    bins = []
    for number, (low, high) in enumerate(pairwise(SCORE_EDGES)):
        chosen = pairs[index == number, 1]
        bins.append(ScoreBin(low, high, len(chosen), float(chosen.mean()) if len(chosen) else None))
    return bins


def mean_false_alarms(by_place: dict[str, FalseAlarms]) -> FalseAlarms:
    """Return the means over the places."""
    values = list(by_place.values())
    kinds = sorted({kind for value in values for kind in value.by_kind})
    by_kind = {kind: float(np.mean([v.by_kind[kind] for v in values if kind in v.by_kind])) for kind in kinds}
    return FalseAlarms(
        threshold=float(np.mean([value.threshold for value in values])),
        reported=float(np.mean([value.reported for value in values])),
        alarms=float(np.mean(list(by_kind.values()))),
        by_kind=by_kind,
    )


def _count(clips: Sequence[ClipRegions], threshold: float) -> FalseAlarms:
    by_kind: dict[str, float] = {}
    for kind in EMPTY_KINDS:
        tops = [top for clip in clips if clip.kind == kind for top in clip.top]
        if tops:
            by_kind[kind] = float(np.mean(np.array(tops) >= threshold))
    found = [score for clip in clips if clip.kind == "sequence" for score in clip.found]
    reported = float(np.mean(np.nan_to_num(found) >= threshold)) if found else float("nan")
    alarms = float(np.mean(list(by_kind.values()))) if by_kind else float("nan")
    return FalseAlarms(threshold, reported, alarms, by_kind)
