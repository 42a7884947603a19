"""Does motion count? Held-out made clips of identical twins of which one moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import cv2
import numpy as np

from edge.frames import Image
from edge.states import NOMINAL_FPS
from edge.world import Target, World
from trainer.datasets.clips import LabelledFrame
from trainer.predict import Map, Predictor

CLIPS, WIDTH, HEIGHT, FRAMES = 200, 256, 144, 17
FIRST = 700_000
"""Scenes from here on: below `trainer.made.EVALUATION`, so never trained on."""
SLOWEST, SEEN = 0.3, 0.7
"""A mover counts from this many of its own sizes a second on; a twin if this share of it is visible."""
ROUND = 1
"""Pixels about a box that are its too."""


@dataclass(frozen=True)
class TwinClip:
    """Frames (H, W, 3), BGR, and in the last of them who moves, and who looks the same and stands."""

    name: str
    frames: list[Image]
    mover: Target
    standing: list[Target]


@dataclass(frozen=True)
class TwinScores:
    """Shares of clips; `off` is how much of a map lies off all twins, when only the camera moves."""

    clips: int
    moving: float
    """The mover has the highest peak."""
    frozen: float
    """The same, shown the last frame all the time: what looks alone can tell."""
    chance: float
    off: float
    off_frozen: float


def twin_clips() -> Iterator[tuple[TwinClip, World]]:
    """Yield clips without end, with their worlds."""
    for seed in count(FIRST):
        world = World(seed, WIDTH, HEIGHT, NOMINAL_FPS, twins=True)
        there = [t for t in world.targets(FRAMES - 1) if t.visible > SEEN]
        movers = [t for t in there if t.moving and t.speed > SLOWEST]
        standing = [t for t in there if not t.moving]
        if movers and standing:
            frames = [world.frame(index).image for index in range(FRAMES)]
            yield TwinClip(str(seed), frames, movers[0], standing), world


def twin_scores(
    predictor: Predictor, clips: int = CLIPS, on_clip: Callable[[], object] = lambda: None
) -> TwinScores:
    """Return how often a predictor ranks the twin that moves first.

    Raises:
        InputError: as the predictor does.
    """
    found: list[tuple[float, ...]] = []
    for clip, world in islice(twin_clips(), clips):
        views = clip.frames, _held(clip.frames)
        first = [_mover_first(_last_map(predictor, frames), clip) for frames in views]
        alone = world.without(clip.mover.ident)
        bare = [alone.frame(index).image for index in range(FRAMES)]
        off = [_off(_last_map(predictor, frames), clip.standing) for frames in (bare, _held(bare))]
        found.append((*first, 1 / (1 + len(clip.standing)), *off))
        on_clip()
    return TwinScores(len(found), *(float(mean) for mean in np.mean(found, axis=0)))


def _held(frames: list[Image]) -> list[Image]:
    return [frames[-1]] * len(frames)


def _last_map(predictor: Predictor, frames: list[Image]) -> Map:
    """Return the last frame's map, stretched to the frame."""
    labelled = (LabelledFrame(index, image, None, None, None) for index, image in enumerate(frames))
    *_, (_, saliency) = predictor.maps("", labelled)
    return np.asarray(cv2.resize(saliency, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.float32)


def _mover_first(saliency: Map, clip: TwinClip) -> float:
    mover = _inside(saliency, clip.mover).max()
    others = [_inside(saliency, target).max() for target in clip.standing]
    return float(mover > max(others))


def _off(saliency: Map, targets: list[Target]) -> float:
    kept = saliency.copy()
    for target in targets:
        _inside(kept, target, grown=WIDTH // 20)[:] = 0
    return float(kept.sum(dtype=np.float64) / max(saliency.sum(dtype=np.float64), 1e-12))


def _inside(saliency: Map, target: Target, grown: int = ROUND) -> Map:
    x, y, w, h = target.box
    rows = slice(max(0, int(y) - grown), int(np.ceil(y + h)) + grown)
    return saliency[rows, max(0, int(x) - grown) : int(np.ceil(x + w)) + grown]
