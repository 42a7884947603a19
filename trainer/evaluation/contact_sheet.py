"""A contact sheet of an evaluation's best and worst frames: frame, truth, prediction."""

from __future__ import annotations

import cv2
import numpy as np

from edge.core.frames import Image
from edge.sinks.files.overlay_video import blend_heat_map
from trainer.evaluation.scores import METRICS, Evaluation, RankedFrame

CELL, LINE, MARGIN = 320, 26, 6
"""Pixels: a picture's width, a line of text, and what lies between."""
INK = (230, 230, 230)


def contact_sheet(evaluation: Evaluation) -> Image:
    """Return the sheet (H, W, 3), uint8 BGR: a row a frame, the best first, then the worst."""
    title = next(m.title for m in METRICS if m.name == evaluation.ranked_by)
    rows = [_text("frame, truth, prediction: " + evaluation.predictor)]
    for word, frames in (("best", evaluation.best), ("worst", evaluation.worst)):
        for shown in frames:
            label = f"{word}: {title} {shown.score:.3f}, {shown.clip}, frame {shown.frame.index}"
            rows += [_text(label), _row(shown)]
    return np.concatenate(rows)


def _row(shown: RankedFrame) -> Image:
    frame = shown.frame
    height = max(1, round(CELL * frame.image.shape[0] / frame.image.shape[1]))
    plain = cv2.resize(frame.image, (CELL, height), interpolation=cv2.INTER_AREA)
    gap = np.zeros((height, MARGIN, 3), np.uint8)
    prediction = blend_heat_map(frame.image, shown.saliency, CELL, height)
    return np.concatenate([plain, gap, _truth(shown, height), gap, prediction], axis=1)


def _truth(shown: RankedFrame, height: int) -> Image:
    """Return the density's heat over the frame, or the frame, with fixations ringed and the box drawn."""
    frame = shown.frame
    scale = CELL / frame.image.shape[1]
    if frame.density is not None:
        image = blend_heat_map(frame.image, frame.density, CELL, height)
    else:
        image = cv2.resize(frame.image, (CELL, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    for row, column in () if frame.fixations is None else frame.fixations:
        cv2.circle(image, (round(column * scale), round(row * scale)), 2, (255, 255, 255), 1, cv2.LINE_AA)
    if frame.box is not None:
        x, y, w, h = (round(value * scale) for value in frame.box)
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 255, 255), 1, cv2.LINE_AA)
    return image


def _text(words: str) -> Image:
    line = np.zeros((LINE, 3 * CELL + 2 * MARGIN, 3), np.uint8)
    cv2.putText(line, words, (4, LINE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return line
