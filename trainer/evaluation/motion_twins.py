"""Does motion count? Held-out made clips of identical twins of which one moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.frames import Image
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.simulation.world import Target, World
from trainer.datasets.clips import LabelledFrame
from trainer.inference.predictors import Map, Predictor

Value = TypeVar("Value")
CLIPS, WIDTH, HEIGHT, FRAMES = 200, 256, 144, 17
FIRST_SEED = 700_000
"""Scenes from here on: below `trainer.data.synthetic_pairs.EVALUATION`, so never trained on."""
MIN_SPEED, MIN_VISIBLE = 0.3, 0.7
"""A mover counts from this many of its own sizes a second on; a twin if this share of it is visible."""
LAST_MAPS = round(NOMINAL_FPS)
"""The last maps of a clip, that twins are ranked over."""
BOX_MARGIN = 1
"""Pixels about a box that are its too."""


@dataclass(frozen=True)
class TwinClip:
    """Frames (H, W, 3), BGR, and in the last of them who moves, and who looks the same and stands.

    `targets`: who is in each frame, by `ident`.
    """

    name: str
    frames: list[Image]
    mover: Target
    standing: list[Target]
    targets: list[dict[int, Target]]


@dataclass(frozen=True)
class TwinScores:
    """Shares of clips; `off` is how much of a map lies off all twins, when only the camera moves."""

    clips: int
    moving: float
    """The mover has the highest peaks, on average over the last second."""
    frozen: float
    """The same, shown the last frame all the time: what looks alone can tell."""
    moving_once: float
    """The mover has the highest peak in the last map alone."""
    frozen_once: float
    chance: float
    off: float
    off_frozen: float


def twin_clips() -> Iterator[tuple[TwinClip, World]]:
    """Yield clips without end, with their worlds."""
    for seed in count(FIRST_SEED):
        world = World(seed, WIDTH, HEIGHT, NOMINAL_FPS, twins=True)
        there = [t for t in world.targets(FRAMES - 1) if t.visible > MIN_VISIBLE]
        movers = [t for t in there if t.moving and t.speed > MIN_SPEED]
        standing = [t for t in there if not t.moving]
        if movers and standing:
            frames = [world.frame(index).image for index in range(FRAMES)]
            targets = [{t.ident: t for t in world.targets(index)} for index in range(FRAMES)]
            yield TwinClip(str(seed), frames, movers[0], standing, targets), world


def twin_scores(
    predictor: Predictor, clips: int = CLIPS, on_clip: Callable[[], object] = lambda: None
) -> TwinScores:
    """Return how often a predictor ranks the twin that moves first.

    Raises:
        InputError: as the predictor does.
    """
    found: list[tuple[float, ...]] = []
    for clip, world in islice(twin_clips(), clips):
        views = (clip.frames, clip.targets), (_held(clip.frames), _held(clip.targets))
        peaks = [_peaks(_last_maps(predictor, frames), clip, targets) for frames, targets in views]
        first = [_mover_first(some) for some in peaks] + [_mover_first(some[-1:]) for some in peaks]
        alone = world.without(clip.mover.ident)
        bare = [alone.frame(index).image for index in range(FRAMES)]
        off = [_off(_last_maps(predictor, seen)[-1], clip.standing) for seen in (bare, _held(bare))]
        found.append((*first, 1 / (1 + len(clip.standing)), *off))
        on_clip()
    return TwinScores(len(found), *(float(mean) for mean in np.mean(found, axis=0)))


def _held(values: list[Value]) -> list[Value]:
    return [values[-1]] * len(values)


def _last_maps(predictor: Predictor, frames: list[Image]) -> list[Map]:
    """Return the last second's maps, stretched to the frame."""
    labelled = (LabelledFrame(index, image, None, None, None) for index, image in enumerate(frames))
    last = deque((saliency.copy() for _, saliency in predictor.maps("", labelled)), maxlen=LAST_MAPS)
    return [
        np.asarray(cv2.resize(m, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32) for m in last
    ]


def _peaks(maps: list[Map], clip: TwinClip, targets: list[dict[int, Target]]) -> NDArray[np.float64]:
    """Return each map's peak at each twin, the mover first: (maps, twins); NaN where a twin is not in."""
    idents = [target.ident for target in (clip.mover, *clip.standing)]
    return np.array(
        [
            [_inside(saliency, there[ident]).max(initial=0) if ident in there else np.nan for ident in idents]
            for saliency, there in zip(maps, targets[-len(maps) :], strict=True)
        ]
    )


def _mover_first(peaks: NDArray[np.float64]) -> float:
    mover, *others = np.nanmean(peaks, axis=0)  # all are in the last
    return float(mover > max(others))


def _off(saliency: Map, targets: list[Target]) -> float:
    kept = saliency.copy()
    for target in targets:
        _inside(kept, target, grown=WIDTH // 20)[:] = 0
    return float(kept.sum(dtype=np.float64) / max(saliency.sum(dtype=np.float64), 1e-12))


def _inside(saliency: Map, target: Target, grown: int = BOX_MARGIN) -> Map:
    x, y, w, h = target.box
    rows = slice(max(0, int(y) - grown), int(np.ceil(y + h)) + grown)
    return saliency[rows, max(0, int(x) - grown) : int(np.ceil(x + w)) + grown]
