"""Clips of `aerogaze quality`: sequences with a tracked target, and clips without any target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edge.core.frames import Image
from edge.simulation.world import World
from edge.sources.pixel_range import configured_range
from trainer.data.pool_rendering import without_targets
from trainer.datasets.clips import Box, DatasetClip, LabelledFrame
from trainer.datasets.tracked_boxes import read as read_boxes
from trainer.evaluation.protocol import EmptyView, Protocol

ClipKind = Literal["sequence", "made", "made empty", "featureless", "view"]
EMPTY_KINDS: tuple[ClipKind, ...] = ("made empty", "featureless", "view")
"""Kinds of clips without a target."""
WIDTH, HEIGHT, FPS, FRAMES = 256, 144, 10.0, 11
SCORED = (4, 7, 10)
"""Made clips: size of the frames, frames per second, frames, and those that are scored. Before the first one
even a student that looks back by 0.4 s has seen its past."""
VIEW_STEP = 4
"""Every so many frames of a view are scored."""
EVALUATION_SEED, FITTING_SEED = 710_000, 720_000
"""First scenes to evaluate on and to fit the score on. Training never uses these scenes: they lie below
`trainer.data.scene_pool.FIRST_TRAINING_SCENE`."""
MIN_VISIBLE = 0.3
"""Least visible fraction of a made target that counts as one."""
NOISE_SIGMAS, NOISE_GRAINS = (2, 5, 10, 20, 40), (0, 1, 3)
"""Featureless frames: standard deviation of the noise in grey levels, and sigma of its grain in pixels."""


@dataclass(frozen=True)
class QualityClip:
    """A clip with the boxes of its targets.

    Attributes:
        name: Unique among all clips.
        kind: Where the frames come from.
        place: Name of the place; None for made clips.
        fps: Frames per second.
        scored: Indices of the frames that are scored.
        load: Returns the frames, without labels but the box of the one tracked target of a sequence.
        boxes: Returns the boxes of the targets in each scored frame.
        unclear: Returns for each scored frame whether all of its targets are hidden by more than
            1 - `MIN_VISIBLE`: it counts neither as one with a target nor as one without. None if no frame is.
        identity: Name with all else that the frames depend on, such as the folder and its time of change.
    """

    name: str
    kind: ClipKind
    place: str | None
    fps: float
    scored: tuple[int, ...]
    load: Callable[[], list[LabelledFrame]]
    boxes: Callable[[], list[list[Box]]]
    identity: str
    unclear: Callable[[], list[bool]] | None = None


def sequence_clips(protocol: Protocol, data: Path, every: int = 1) -> Iterator[QualityClip]:
    """Yield the sequences of a protocol that lie in a folder; those that are missing are left out.

    Args:
        protocol: The protocol.
        data: Folder of the data.
        every: Score every so many frames.
    """
    for place in protocol.places:
        for sequence in place.sequences:
            clip = _open_sequence(data, sequence)
            if clip is not None:
                scored = tuple(range(0, len(clip), every))
                yield QualityClip(
                    sequence,
                    "sequence",
                    place.name,
                    place.fps,
                    scored,
                    partial(_load_frames, clip),
                    partial(_tracked_boxes, clip, scored),
                    _identify(data, sequence),
                )


def empty_view_clips(protocol: Protocol, data: Path) -> Iterator[QualityClip]:
    """Yield the views without a target of a protocol whose sequences lie in a folder."""
    for view in protocol.empty_views:
        clip = _open_sequence(data, view.sequence)
        if clip is not None:
            scored = tuple(range(VIEW_STEP, len(clip), VIEW_STEP))
            yield QualityClip(
                f"{view.sequence}, {view.name}",
                "view",
                view.place.name,
                view.place.fps,
                scored,
                partial(_crop_frames, clip, view),
                partial(_no_boxes, len(scored)),
                f"{_identify(data, view.sequence)} {view.window}",
            )


def made_clips(first_seed: int, count: int, targets: bool) -> Iterator[QualityClip]:
    """Yield clips of the simulated world.

    Args:
        first_seed: Seed of the first scene.
        count: Number of clips.
        targets: Show the scenes as they are; without, all their actors are removed.
    """
    for seed in range(first_seed, first_seed + count):
        world = World(seed, WIDTH, HEIGHT, FPS)
        if not targets:
            world = without_targets(world, range(FRAMES))
        name = f"{'made' if targets else 'made empty'} {seed}"
        yield QualityClip(
            name,
            "made" if targets else "made empty",
            None,
            FPS,
            SCORED,
            partial(_render, world),
            partial(_world_boxes, world),
            name,
            partial(_hidden_targets, world),
        )


def featureless_clips(first_seed: int, count: int) -> Iterator[QualityClip]:
    """Yield clips of noise, grey and coloured, fine and coarse, and of skies: a smooth gradient."""
    for seed in range(first_seed, first_seed + count):
        yield QualityClip(
            f"featureless {seed}",
            "featureless",
            None,
            FPS,
            SCORED,
            partial(_draw_featureless, seed),
            partial(_no_boxes, len(SCORED)),
            f"featureless {seed}",
        )


def _open_sequence(data: Path, sequence: str) -> DatasetClip | None:
    folder = data / sequence
    if not (folder / "boxes.txt").is_file():
        return None
    return next(clip for clip in read_boxes(folder.parent, {}) if clip.name == folder.name)


def _identify(data: Path, sequence: str) -> str:
    folder = (data / sequence).resolve()
    changed = [(folder / name).stat().st_mtime_ns for name in ("frames", "boxes.txt")]
    return f"{folder} {changed} {configured_range()}"


def _load_frames(clip: DatasetClip) -> list[LabelledFrame]:
    return list(clip.frames())


def _tracked_boxes(clip: DatasetClip, scored: Sequence[int]) -> list[list[Box]]:
    return [[box] if (box := clip.box(index)) is not None else [] for index in scored]


def _crop_frames(clip: DatasetClip, view: EmptyView) -> list[LabelledFrame]:
    left, top, width, height = view.window
    frames = []
    for frame in clip.frames():
        rows, columns = frame.image.shape[:2]
        x, y = round(left * columns), round(top * rows)
        image = frame.image[y : y + round(height * rows), x : x + round(width * columns)]
        frames.append(_unlabelled(frame.index, np.ascontiguousarray(image)))
    return frames


def _render(world: World) -> list[LabelledFrame]:
    return [_unlabelled(index, world.frame(index).image) for index in range(FRAMES)]


def _world_boxes(world: World) -> list[list[Box]]:
    return [
        [target.box for target in world.targets(index) if target.visible_fraction > MIN_VISIBLE]
        for index in SCORED
    ]


def _hidden_targets(world: World) -> list[bool]:
    fractions = ([target.visible_fraction for target in world.targets(index)] for index in SCORED)
    return [bool(frame) and max(frame) <= MIN_VISIBLE for frame in fractions]


def _draw_featureless(seed: int) -> list[LabelledFrame]:
    rng = np.random.default_rng(seed)
    if seed % 4 == 3:
        high, low = rng.uniform(60, 230, (2, 3))
        ramp = np.linspace(0, 1, HEIGHT)[:, None, None]
        base = np.broadcast_to(high * (1 - ramp) + low * ramp, (HEIGHT, WIDTH, 3))
        sigma, grain, channels = 2.0, 0, 3
    else:
        base = np.full((HEIGHT, WIDTH, 3), rng.uniform(30, 220))
        sigma, grain = float(rng.choice(NOISE_SIGMAS)), int(rng.choice(NOISE_GRAINS))
        channels = 1 if seed % 2 else 3
    frames = []
    for index in range(FRAMES):
        noise = rng.normal(0, sigma, (HEIGHT, WIDTH, channels))
        if grain:  # a Gaussian reduces white noise by 2 sqrt(pi) sigma
            blurred = cv2.GaussianBlur(noise, (0, 0), grain).reshape(noise.shape)
            noise = np.asarray(2 * np.sqrt(np.pi) * grain * blurred, np.float64)
        frames.append(_unlabelled(index, np.clip(base + noise, 0, 255).astype(np.uint8)))
    return frames


def _unlabelled(index: int, image: Image) -> LabelledFrame:
    return LabelledFrame(index, image, None, None, None)


def _no_boxes(count: int) -> list[list[Box]]:
    return [[] for _ in range(count)]
