"""Contact sheet of `aerogaze quality`: the frames on which a candidate does worst."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge.core.frames import Image
from edge.postprocessing.regions import find_regions
from trainer.evaluation.candidate_maps import SCORE_KEYS, Candidate, clip_records
from trainer.evaluation.contact_sheet import draw_row, draw_text
from trainer.evaluation.protocol import Protocol
from trainer.evaluation.quality import Effort, quality_clips
from trainer.evaluation.scores import RankedFrame

RANKED_BY = "zblur"
MAX_SEQUENCES, MAX_ALARMS = 10, 5
"""Worst frames of sequences and of clips without a target, at most one per clip."""


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
    sequences, alarms = [], []
    column = SCORE_KEYS.index(RANKED_BY)
    calibration = candidate.release.score if candidate.release else None
    for clip in quality_clips(protocol, data, effort):
        (record,) = clip_records([candidate], clip)
        if clip.kind == "sequence":
            scores = np.nan_to_num(record.scores[:, column], nan=np.inf)
            worst = int(np.argmin(scores))
            sequences.append((float(scores[worst]), clip, worst, record.maps[worst]))
        else:
            tops = [
                max((r.score for r in find_regions(m, calibration=calibration)), default=0.0)
                for m in record.maps
            ]
            worst = int(np.argmax(tops))
            alarms.append((tops[worst], clip, worst, record.maps[worst]))
    sequences.sort(key=lambda row: row[0])
    alarms.sort(key=lambda row: -row[0])
    rows = [draw_text(f"frame, target, map: {candidate.description}")]
    for name, chosen in ((RANKED_BY, sequences[:MAX_SEQUENCES]), ("score", alarms[:MAX_ALARMS])):
        for score, clip, position, saliency in chosen:
            index = clip.scored[position]
            frame = next(frame for frame in clip.load() if frame.index == index)
            rows.append(draw_text(f"{name} {score:.2f}, {clip.name}, frame {index}"))
            rows.append(draw_row(RankedFrame(clip.name, frame, saliency, score)))
    return np.concatenate(rows)
