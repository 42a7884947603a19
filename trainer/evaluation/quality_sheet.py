"""Contact sheet of `aerogaze quality`: the frames on which a candidate does worst."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge.core.frames import Image
from trainer.evaluation.candidate_maps import SCORE_KEYS, Candidate, clip_records
from trainer.evaluation.contact_sheet import draw_row, draw_text
from trainer.evaluation.false_alarms import clip_regions
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.quality import Effort, quality_clips
from trainer.evaluation.quality_clips import QualityClip
from trainer.evaluation.scores import RankedFrame
from trainer.inference.predictor import Map

RANKED_BY = "zblur"
MAX_SEQUENCES, MAX_ALARMS = 10, 5
"""Worst frames of sequences and of clips without a target, at most one per clip."""


class _Found(NamedTuple):
    """A frame by its position among the scored ones of a clip, with its map and the number that ranks it."""

    score: float
    clip: QualityClip
    position: int
    saliency: Map


def worst_frames_sheet(candidate: Candidate, protocol: Protocol, data: Path, effort: Effort) -> Image:
    """Return the sheet (H, W, 3), uint8 BGR: frame, tracked target and map in each row.

    First come the frames of sequences with the lowest zblur, then the target-free frames with the highest
    scores of a region.

    Args:
        candidate: The candidate.
        protocol: The protocol.
        data: Folder of the real data.
        effort: How much is computed.
    """
    sequences: list[_Found] = []
    alarms: list[_Found] = []
    column = SCORE_KEYS.index(RANKED_BY)
    calibration = candidate.release.score if candidate.release else None
    for clip in quality_clips(protocol, data, effort):
        (record,) = clip_records([candidate], clip)
        if clip.kind == "sequence":
            values = np.nan_to_num(record.scores[:, column], nan=np.inf)
            worst = int(np.argmin(values))
            sequences.append(_Found(float(values[worst]), clip, worst, record.maps[worst]))
        else:
            tops = clip_regions(clip, record, calibration).top
            worst = int(np.argmax(tops))
            alarms.append(_Found(tops[worst], clip, worst, record.maps[worst]))
        # Only what is shown is kept, because a simulated clip holds its whole scene.
        sequences = sorted(sequences, key=lambda found: found.score)[:MAX_SEQUENCES]
        alarms = sorted(alarms, key=lambda found: -found.score)[:MAX_ALARMS]
    rows = [draw_text(f"frame, target, map: {candidate.description}")]
    for name, chosen in ((RANKED_BY, sequences), ("score", alarms)):
        for found in chosen:
            index = found.clip.scored[found.position]
            frame = next(frame for frame in found.clip.load() if frame.index == index)
            rows.append(draw_text(f"{name} {found.score:.2f}, {found.clip.name}, frame {index}"))
            rows.append(draw_row(RankedFrame(found.clip.name, frame, found.saliency, found.score)))
    return np.concatenate(rows)
