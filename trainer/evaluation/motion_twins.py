"""Test of motion sensitivity: held-out simulated clips of identical twins, of which exactly one moves.

Appearance alone cannot tell the twins apart, so a predictor that ranks the moving twin first uses motion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.simulation.world import VisibleTarget, World
from trainer.datasets.clips import LabelledFrame
from trainer.inference.predictor import Map, Predictor

Value = TypeVar("Value")
CLIPS, WIDTH, HEIGHT, FRAMES = 200, 256, 144, 17
FIRST_SEED = 700_000
"""Seed of the first scene. Training never uses these scenes: they lie below
`trainer.data.scene_pool.FIRST_TRAINING_SCENE`."""
MIN_SPEED = 0.3
"""Least speed of a mover, in its own sizes per second."""
MIN_VISIBLE = 0.7
"""Least visible share of a twin."""
LAST_MAPS = round(NOMINAL_FPS)
"""Maps at the end of a clip over which twins are ranked: one second."""
BOX_MARGIN = 1
"""Pixels around a box that count as part of it."""


@dataclass(frozen=True)
class TwinClip:
    """Clip of one moving and one or more standing twins that look the same.

    Attributes:
        frames: Frames (H, W, 3), BGR.
        mover: The moving twin, in the last frame.
        standing: The standing twins, in the last frame.
        targets: All targets of each frame, by `ident`.
    """

    name: str
    frames: list[Image]
    mover: VisibleTarget
    standing: list[VisibleTarget]
    targets: list[dict[int, VisibleTarget]]


@dataclass(frozen=True)
class TwinScores:
    """Scores of a predictor: shares of clips, except `off` and `off_frozen`."""

    clips: int
    moving: float
    """The mover has the highest peak, on average over the last second."""
    frozen: float
    """The same with every frame replaced by the last one: what appearance alone can tell."""
    moving_once: float
    """The mover has the highest peak in the last map alone."""
    frozen_once: float
    chance: float
    off: float
    """Share of the map's sum that lies off all twins in a clip where only the camera moves."""
    off_frozen: float


def twin_clips() -> Iterator[tuple[TwinClip, World]]:
    """Yield an endless sequence of clips with their worlds."""
    for seed in count(FIRST_SEED):
        world = World(seed, WIDTH, HEIGHT, NOMINAL_FPS, twins=True)
        visible = [target for target in world.targets(FRAMES - 1) if target.visible_fraction > MIN_VISIBLE]
        movers = [target for target in visible if target.is_moving and target.speed > MIN_SPEED]
        standing = [target for target in visible if not target.is_moving]
        if movers and standing:
            frames = [world.frame(index).image for index in range(FRAMES)]
            targets = [
                {target.target_id: target for target in world.targets(index)} for index in range(FRAMES)
            ]
            yield TwinClip(str(seed), frames, movers[0], standing, targets), world


def twin_scores(
    predictor: Predictor, clips: int = CLIPS, on_clip: Callable[[], object] = lambda: None
) -> TwinScores:
    """Score a predictor on clips of twins, as `score_twins` does."""
    return score_twins([predictor], clips, on_clip)[0]


def score_twins(
    predictors: Sequence[Predictor], clips: int = CLIPS, on_clip: Callable[[], object] = lambda: None
) -> list[TwinScores]:
    """Score predictors on clips of twins. A clip is drawn once for all of them.

    Args:
        predictors: Sources of the maps.
        clips: Number of clips.
        on_clip: Called after each clip.

    Raises:
        InputError: As a predictor does.
    """
    rows: list[list[tuple[float, ...]]] = [[] for _ in predictors]
    for clip, world in islice(twin_clips(), clips):
        world_without_mover = world.without_target(clip.mover.target_id)
        standing_only = [world_without_mover.frame(index).image for index in range(FRAMES)]
        for predictor, scores in zip(predictors, rows, strict=True):
            scores.append(_score_clip(predictor, clip, standing_only))
        on_clip()
    return [TwinScores(len(scores), *(float(mean) for mean in np.mean(scores, axis=0))) for scores in rows]


def _score_clip(predictor: Predictor, clip: TwinClip, standing_only: list[Image]) -> tuple[float, ...]:
    """Return the scores of a clip in the order of the attributes of `TwinScores`.

    Args:
        predictor: Source of the maps.
        clip: The clip.
        standing_only: The frames of the clip without its mover.
    """
    views = (clip.frames, clip.targets), (_freeze(clip.frames), _freeze(clip.targets))
    peaks = [_twin_peaks(_last_maps(predictor, frames), clip, targets) for frames, targets in views]
    ranked_first = [_is_mover_first(all_maps) for all_maps in peaks]
    ranked_first += [_is_mover_first(all_maps[-1:]) for all_maps in peaks]
    off = [
        _share_off_targets(_last_maps(predictor, frames)[-1], clip.standing)
        for frames in (standing_only, _freeze(standing_only))
    ]
    return (*ranked_first, 1 / (1 + len(clip.standing)), *off)


def _freeze(values: list[Value]) -> list[Value]:
    return [values[-1]] * len(values)


def _last_maps(predictor: Predictor, frames: list[Image]) -> list[Map]:
    """Return the maps of the last second, resized to the frame."""
    labelled = (LabelledFrame(index, image, None, None, None) for index, image in enumerate(frames))
    last = deque((saliency.copy() for _, saliency in predictor.predict("", labelled)), maxlen=LAST_MAPS)
    return [
        np.asarray(cv2.resize(m, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32) for m in last
    ]


def _twin_peaks(
    maps: list[Map], clip: TwinClip, targets: list[dict[int, VisibleTarget]]
) -> NDArray[np.float64]:
    """Return each map's peak at each twin (maps, twins), the mover first; NaN where a twin is out of view."""
    idents = [target.target_id for target in (clip.mover, *clip.standing)]
    return np.array(
        [
            [
                _crop(saliency, in_view[ident]).max(initial=0) if ident in in_view else np.nan
                for ident in idents
            ]
            for saliency, in_view in zip(maps, targets[-len(maps) :], strict=True)
        ]
    )


def _is_mover_first(peaks: NDArray[np.float64]) -> bool:
    mover, *others = np.nanmean(peaks, axis=0)  # never all NaN: every twin is in view in the last frame
    return bool(mover > max(others))


def _share_off_targets(saliency: Map, targets: list[VisibleTarget]) -> float:
    remaining = saliency.copy()
    for target in targets:
        _crop(remaining, target, margin=WIDTH // 20)[:] = 0
    return float(remaining.sum(dtype=np.float64) / max(saliency.sum(dtype=np.float64), 1e-12))


def _crop(saliency: Map, target: VisibleTarget, margin: int = BOX_MARGIN) -> Map:
    x, y, w, h = target.box
    rows = slice(max(0, int(y) - margin), int(np.ceil(y + h)) + margin)
    return saliency[rows, max(0, int(x) - margin) : int(np.ceil(x + w)) + margin]
