"""Contact sheet of the best and worst frames of an evaluation: frame, truth, prediction."""

from __future__ import annotations

import cv2
import numpy as np

from edge.core.frames import Image
from edge.sinks.files.overlay_video import blend_heat_map
from trainer.evaluation.scores import METRICS, Evaluation, RankedFrame

CELL_WIDTH, LINE_HEIGHT, MARGIN = 320, 26, 6
"""Pixels: width of a picture, height of a line of text, gap between pictures."""
TEXT_COLOUR = (230, 230, 230)


def contact_sheet(evaluation: Evaluation) -> Image:
    """Return the sheet (H, W, 3), uint8 BGR: one row per frame, the best frames first, then the worst."""
    metric_title = next(metric.title for metric in METRICS if metric.name == evaluation.ranked_by)
    rows = [draw_text("frame, truth, prediction: " + evaluation.predictor)]
    for rank, frames in (("best", evaluation.best), ("worst", evaluation.worst)):
        for ranked in frames:
            title = f"{rank}: {metric_title} {ranked.score:.3f}, {ranked.clip}, frame {ranked.frame.index}"
            rows += [draw_text(title), draw_row(ranked)]
    return np.concatenate(rows)


def draw_row(ranked: RankedFrame) -> Image:
    """Return a row: the frame, its truth and its map."""
    frame = ranked.frame
    height = max(1, round(CELL_WIDTH * frame.image.shape[0] / frame.image.shape[1]))
    picture = cv2.resize(frame.image, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA)
    gap = np.zeros((height, MARGIN, 3), np.uint8)
    prediction = blend_heat_map(frame.image, ranked.saliency, CELL_WIDTH, height)
    return np.concatenate([picture, gap, _draw_truth(ranked, height), gap, prediction], axis=1)


def _draw_truth(ranked: RankedFrame, height: int) -> Image:
    """Return the frame with its density as a heat map, a ring around each fixation, and its box."""
    frame = ranked.frame
    scale = CELL_WIDTH / frame.image.shape[1]
    if frame.density is not None:
        image = blend_heat_map(frame.image, frame.density, CELL_WIDTH, height)
    else:
        image = cv2.resize(frame.image, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    for row, column in () if frame.fixations is None else frame.fixations:
        cv2.circle(image, (round(column * scale), round(row * scale)), 2, (255, 255, 255), 1, cv2.LINE_AA)
    if frame.box is not None:
        x, y, w, h = (round(value * scale) for value in frame.box)
        cv2.rectangle(image, (x, y), (x + w, y + h), (0, 255, 255), 1, cv2.LINE_AA)
    return image


def draw_text(text: str) -> Image:
    """Return a line of text as wide as a row."""
    line = np.zeros((LINE_HEIGHT, 3 * CELL_WIDTH + 2 * MARGIN, 3), np.uint8)
    cv2.putText(line, text, (4, LINE_HEIGHT - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT_COLOUR, 1, cv2.LINE_AA)
    return line
