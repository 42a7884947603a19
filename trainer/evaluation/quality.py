"""Quality of candidates by the protocol: box proxy, twins, human gaze, false alarms and cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.core.atomic_files import atomic_file, cache_folder
from edge.inference.saliency_model import SaliencyModel
from edge.simulation.world import World
from trainer.datasets.clips import LabelledFrame
from trainer.datasets.factory import open_dataset
from trainer.evaluation.candidate_maps import (
    SCORE_KEYS,
    TWIN_SOURCES,
    Candidate,
    ClipRecord,
    clip_records,
    source_hash,
)
from trainer.evaluation.false_alarms import (
    ClipRegions,
    FalseAlarms,
    ScoreBin,
    clip_regions,
    false_alarms_at,
    false_alarms_by_place,
    mean_false_alarms,
    reliability,
)
from trainer.evaluation.motion_twins import CLIPS, TwinScores, score_twins
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.quality_clips import (
    EVALUATION_SEED,
    QualityClip,
    empty_view_clips,
    featureless_clips,
    made_clips,
    sequence_clips,
)
from trainer.evaluation.scores import evaluate_predictor
from trainer.inference.predictor import LabelledMap, Map, Predictor

GAZE_CLIP, GAZE_FPS = "ucf-sports", 10.0
"""Folder and kind of the gaze data, and its frames per second."""
GAZE_BLUR = 0.03
"""Sigma, in widths of the map, of the blur of the softened maps: one value for all candidates."""
MADE_EMPTY, FEATURELESS = 60, 32
"""Clips without a target."""
TIMED_SIZE, TIMED_FRAMES, WARM_UP = (1280, 720), 40, 10
"""Cost: size of the frames, frames that are timed, and frames before."""


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        every: Every so many frames of a sequence are scored.
        twins: Clips of twins.
        made_empty: Made scenes without actors.
        featureless: Featureless clips.
    """

    every: int = 1
    twins: int = CLIPS
    made_empty: int = MADE_EMPTY
    featureless: int = FEATURELESS


QUICK = Effort(every=4, twins=40, made_empty=16, featureless=8)


@dataclass(frozen=True)
class SequenceScores:
    """Box scores of a sequence, means over its frames with a box."""

    name: str
    place: str
    frames: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Quality:
    """All that was measured of a candidate; what its data did not allow is None or empty.

    Attributes:
        name: Label of the candidate.
        description: What makes its maps.
        sequences: Box scores of each sequence.
        twins: Scores on twins.
        gaze: CC and NSS of the maps on the gaze clip, raw.
        gaze_soft: CC and NSS of the maps after a blur of `GAZE_BLUR`.
        alarms_by_place: False alarms of each place at the threshold of the other places.
        shipped: Reported targets and false alarms at the release's own threshold; None without one.
        reliability: How often the first region lies on the target, by its score.
        cost_ms: Preprocessing, alignment and inference of a frame in milliseconds, one thread.
    """

    name: str
    description: str
    sequences: list[SequenceScores]
    twins: TwinScores
    gaze: dict[str, float] | None
    gaze_soft: dict[str, float] | None
    alarms_by_place: dict[str, FalseAlarms]
    shipped: FalseAlarms | None
    reliability: list[ScoreBin]
    cost_ms: float | None

    @property
    def alarms(self) -> FalseAlarms | None:
        """Mean false alarms over the places."""
        return mean_false_alarms(self.alarms_by_place) if self.alarms_by_place else None

    def in_place(self, place: str) -> list[SequenceScores]:
        """Return the scores of the sequences of a place."""
        return [row for row in self.sequences if row.place == place]

    def values(self, metric: str, place: str | None = None) -> list[float]:
        """Return a box score of each sequence, of one place or of all."""
        return [s.scores[metric] for s in self.sequences if place in (None, s.place)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return asdict(self) | {"alarms": None if self.alarms is None else asdict(self.alarms)}


def measure_quality(
    candidates: Sequence[Candidate],
    protocol: Protocol,
    data: Path | None,
    effort: Effort = Effort(),
    on_step: Callable[[str], object] = lambda step: None,
) -> list[Quality]:
    """Measure candidates.

    Args:
        candidates: The candidates.
        protocol: The protocol.
        data: Folder of the real data; None measures only what needs none.
        effort: How much is computed.
        on_step: Called with the name of each clip or step.

    Raises:
        InputError: As the candidates' predictors do.
    """
    sequences: list[list[SequenceScores]] = [[] for _ in candidates]
    regions: list[list[ClipRegions]] = [[] for _ in candidates]
    for clip in quality_clips(protocol, data, effort):
        on_step(clip.name)
        for index, record in enumerate(clip_records(candidates, clip)):
            release = candidates[index].release
            regions[index].append(clip_regions(clip, record, release.score if release else None))
            if clip.kind == "sequence":
                sequences[index].append(_average(clip, record))
    on_step("twins")
    twins = _twin_scores(candidates, effort.twins, on_step)
    results = []
    for index, candidate in enumerate(candidates):
        on_step(f"gaze and cost of {candidate.label}")
        score = candidate.release.score if candidate.release else None
        results.append(
            Quality(
                name=candidate.label,
                description=candidate.description,
                sequences=sequences[index],
                twins=twins[index],
                gaze=_gaze_scores(candidate, data, 0.0),
                gaze_soft=_gaze_scores(candidate, data, GAZE_BLUR),
                alarms_by_place=false_alarms_by_place(regions[index]),
                shipped=false_alarms_at(regions[index], score.threshold) if score else None,
                reliability=reliability(regions[index]),
                cost_ms=_cost_ms(candidate),
            )
        )
    return results


def quality_clips(protocol: Protocol, data: Path | None, effort: Effort) -> Iterator[QualityClip]:
    """Return all clips that candidates are judged on, except twins and gaze."""
    real: Iterable[QualityClip] = ()
    if data is not None:
        real = chain(sequence_clips(protocol, data, effort.every), empty_view_clips(protocol, data))
    return chain(
        real,
        made_clips(EVALUATION_SEED, effort.made_empty, targets=False),
        featureless_clips(EVALUATION_SEED, effort.featureless),
    )


def _average(clip: QualityClip, record: ClipRecord) -> SequenceScores:
    has_box = ~np.isnan(record.scores[:, 0])
    means = record.scores[has_box].mean(axis=0) if has_box.any() else np.full(len(SCORE_KEYS), np.nan)
    scores = {key: float(mean) for key, mean in zip(SCORE_KEYS, means, strict=True)}
    return SequenceScores(clip.name, clip.place or "", int(has_box.sum()), scores)


def _twin_scores(
    candidates: Sequence[Candidate], clips: int, on_step: Callable[[str], object]
) -> list[TwinScores]:
    """Return the scores on twins, from the cache where they are there."""
    folder = cache_folder() / "quality"
    paths = []
    for candidate in candidates:
        identity = f"twins {clips} {candidate.fingerprint} {source_hash(TWIN_SOURCES)}"
        paths.append(folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.json")
    missing = [index for index, path in enumerate(paths) if not path.is_file()]
    if missing:
        predictors = [candidates[index].predictor(10.0) for index in missing]
        for index, scores in zip(
            missing, score_twins(predictors, clips, lambda: on_step("twins")), strict=True
        ):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(paths[index]) as file:
                file.write_text(json.dumps(asdict(scores)))
    return [TwinScores(**json.loads(path.read_text())) for path in paths]


class _SoftPredictor:
    """Predictor whose maps are blurred; `sigma` is in widths of the map."""

    def __init__(self, predictor: Predictor, sigma: float) -> None:
        self._predictor, self._sigma = predictor, sigma
        self.description = predictor.description

    def predict(self, clip: str, frames: Iterable[LabelledFrame], every: int = 1) -> Iterator[LabelledMap]:
        """Yield frames and blurred maps."""
        for frame, saliency in self._predictor.predict(clip, frames, every):
            yield frame, self._blur(saliency)

    def _blur(self, saliency: Map) -> Map:
        if not self._sigma:
            return saliency
        sigma = self._sigma * saliency.shape[1]
        blurred = cv2.GaussianBlur(saliency, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, np.float32)


def _gaze_scores(candidate: Candidate, data: Path | None, blur: float) -> dict[str, float] | None:
    if data is None or not (data / GAZE_CLIP).is_dir():
        return None
    predictor = _SoftPredictor(candidate.predictor(GAZE_FPS), blur)
    evaluation = evaluate_predictor(open_dataset(GAZE_CLIP, data / GAZE_CLIP), predictor)
    return {name: evaluation.scores[name].mean for name in ("cc", "nss") if name in evaluation.scores}


def _cost_ms(candidate: Candidate) -> float | None:
    """Return the median time of a frame of a release; None for anything else."""
    if candidate.release is None:
        return None
    world = World(EVALUATION_SEED, *TIMED_SIZE)
    images = [world.frame(index).image for index in range(WARM_UP)]
    times = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with SaliencyModel(candidate.release, candidate.precision, threads=1) as model:
            model.reset(10.0)
            for index in range(WARM_UP + TIMED_FRAMES):
                start = time.perf_counter()
                model.infer(model.prepare(images[index % len(images)]))
                times.append((time.perf_counter() - start) * 1e3)
    finally:
        cv2.setNumThreads(threads)
    return float(np.median(times[WARM_UP:]))
