"""Maps of candidates on the clips of `aerogaze quality`, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edge
import trainer
from edge.core.atomic_files import atomic_file, cache_folder
from edge.core.errors import InputError
from edge.metrics.box_proxy import BoxScores, box_scores
from edge.release.manifest import load_release
from edge.release.release import Release
from trainer.datasets.clips import LabelledFrame
from trainer.evaluation.quality_clips import QualityClip
from trainer.inference.predictor import Map, Predictor
from trainer.inference.predictors import ReleasePredictor, fingerprint, open_predictor

MAP_SOURCES = (
    "edge/inference",
    "edge/metrics",
    "edge/preprocessing",
    "edge/sources/image_folder.py",
    "edge/sources/pixel_range.py",
    "trainer/datasets",
    "trainer/evaluation/quality_clips.py",
    "trainer/inference",
    "trainer/models",
)
SIMULATION_SOURCES = ("edge/simulation", *MAP_SOURCES)
TWIN_SOURCES = ("trainer/evaluation/motion_twins.py", *SIMULATION_SOURCES)
"""Code that maps and scores depend on, of real clips, of simulated clips and of twins. When it changes, they
are computed again."""
SCORE_KEYS = BoxScores._fields


class Candidate:
    """A release, a student or a folder of maps to judge.

    Args:
        name: As for `open_predictor`.
        precision: Precision of a release; None takes the fastest that this machine computes natively.

    Attributes:
        name: The name.
        label: The name without folders and without `.safetensors`, for tables.
        precision: The precision that was asked for.
        release: The release; None for a student or a folder of maps.
        description: What makes the maps.

    Raises:
        InputError: As `open_predictor` does.
    """

    def __init__(self, name: str, precision: str | None = None) -> None:
        self.name, self.precision = name, precision
        self.label = Path(name).name.removesuffix(".safetensors")
        self._predictors: dict[float, Predictor] = {}
        first = self.predictor(10.0)
        self.description = first.description
        self.release: Release | None = load_release(name) if isinstance(first, ReleasePredictor) else None

    def predictor(self, fps: float) -> Predictor:
        """Return the predictor for clips of a frame rate."""
        if fps not in self._predictors:
            self._predictors[fps] = open_predictor(self.name, self.precision, fps)
        return self._predictors[fps]

    @property
    def fingerprint(self) -> str:
        """Hash of all that the maps depend on; the calibration of the score is not part of it."""
        if self.release is None:
            return fingerprint(self.name)
        document = json.loads((self.release.folder / "release.json").read_text())
        document.pop("score", None)
        return hashlib.sha256(f"{self.description} {json.dumps(document)}".encode()).hexdigest()


@dataclass(frozen=True)
class ClipRecord:
    """What a candidate gave for a clip.

    Attributes:
        maps: Maps (N, h, w) of the scored frames.
        scores: Box scores (N, 4) of a sequence in the order of `SCORE_KEYS`; NaN where there is no box.
        size: Width and height of the frames in pixels.
    """

    maps: NDArray[np.float32]
    scores: NDArray[np.float64]
    size: tuple[int, int]


def clip_records(candidates: Sequence[Candidate], clip: QualityClip) -> list[ClipRecord]:
    """Return the record of each candidate for a clip; frames are loaded only if a record is missing.

    Raises:
        InputError: As the predictors do, or a frame of the clip cannot be read.
    """
    paths = [_record_path(candidate, clip) for candidate in candidates]
    records = [_read(path) for path in paths]
    if None in records:
        frames, boxes = clip.load(), clip.boxes()
        for index, (candidate, path) in enumerate(zip(candidates, paths, strict=True)):
            if records[index] is None:
                record = _compute(candidate.predictor(clip.fps), clip, frames, boxes)
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as file, file.open("wb") as stream:
                    # Half precision keeps a map to 0.1 %, and small values do not count.
                    maps = record.maps.astype(np.float16)
                    np.savez(stream, maps=maps, scores=record.scores, size=record.size)
                records[index] = _read(path)
    return [record for record in records if record is not None]


def _compute(
    predictor: Predictor,
    clip: QualityClip,
    frames: list[LabelledFrame],
    boxes: list[list[tuple[float, float, float, float]]],
) -> ClipRecord:
    boxes_of = dict(zip(clip.scored, boxes if clip.kind == "sequence" else [[]] * len(boxes), strict=True))
    maps: list[Map] = []
    scores: list[tuple[float, ...]] = []
    for frame, saliency in predictor.predict(clip.name, frames):
        if frame.index in boxes_of:
            maps.append(saliency.copy())
            scores.append(_box_scores(frame, saliency, boxes_of[frame.index]))
    if len(maps) != len(clip.scored):
        raise InputError(
            f"{clip.name}: {len(clip.scored) - len(maps)} of its frames cannot be read as an image; expected "
            "all of them: copy the sequence again"
        )
    height, width = frames[0].image.shape[:2]
    return ClipRecord(np.stack(maps).astype(np.float32), np.array(scores, np.float64), (width, height))


def _box_scores(
    frame: LabelledFrame, saliency: Map, boxes: list[tuple[float, float, float, float]]
) -> tuple[float, ...]:
    if not boxes:
        return (np.nan,) * len(SCORE_KEYS)
    height, width = frame.image.shape[:2]
    return tuple(box_scores(saliency, np.asarray(boxes[0]), width, height))


def _read(path: Path) -> ClipRecord | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            width, height = (int(side) for side in file["size"])
            return ClipRecord(file["maps"].astype(np.float32), file["scores"], (width, height))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent, or damaged: it is computed again


def _record_path(candidate: Candidate, clip: QualityClip) -> Path:
    sources = SIMULATION_SOURCES if clip.kind in ("made", "made empty") else MAP_SOURCES
    identity = f"{candidate.fingerprint} {source_hash(sources)} {clip.identity} {clip.fps} {clip.scored}"
    return cache_folder() / "quality" / f"{hashlib.sha256(identity.encode()).hexdigest()}.npz"


@cache
def source_hash(sources: tuple[str, ...]) -> str:
    """Return the hash of source files and folders."""
    folders = {"edge": Path(edge.__file__).parent, "trainer": Path(trainer.__file__).parent}
    digest = hashlib.sha256()
    for source in sources:
        top, _, rest = source.partition("/")
        path = folders[top] / rest
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
