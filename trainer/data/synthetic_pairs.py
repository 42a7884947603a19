"""Pairs of frames of simulated scenes, drawn from a pool."""

from __future__ import annotations

import math
from typing import TypedDict, get_args

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge.preprocessing.transform import Preprocessing
from trainer.data.augmentation import Variation
from trainer.data.gaze_model import gaze_density
from trainer.data.scene_pool import TICKS_PER_S, ScenePool, Shot
from trainer.data.soft_labels import SoftLabels
from trainer.data.teacher_maps import TeacherKind, resize_map
from trainer.models.student import SkdSettings
from trainer.recipes.loader import WorldTable

DRAWS = 1 << 20
"""Samples in an epoch. The same index gives the same sample, so a resumed training continues exactly."""
LAG_VARIATION = 1 / 3
"""Largest relative change of the lag from sample to sample, because frame rates in the field vary."""
MIN_FPS, MAX_FPS = 10, 60
"""Frame rates at which a student without a lag sees the frame before."""
SLOW_FPS, SLOW_SHARE = 2, 1 / 8
"""Frame rate of slow cameras, which is below every lag, and their share of the samples."""


class PairSample(TypedDict):
    """A frame, its neighbour in time and where viewers look in the frame.

    All values are float32. The last four are present only if teachers need large frames, or if there are soft
    labels.

    Attributes:
        frame: Input of the student, (3, R, R).
        other: The neighbour as input of the student, (3, R, R).
        density: Fixation density of the frame, (1, R, R), sums to 1.
        large_frame: Input of the teachers, (3, H, W).
        large_other: The neighbour as input of the teachers, (3, H, W).
        soft_spatial: Map of the frame by the spatial teacher, (1, R, R), in [0, 1].
        soft_temporal: Map of the frame by the temporal teacher, (1, R, R), in [0, 1].
    """

    frame: Tensor
    other: Tensor
    density: Tensor
    large_frame: Tensor
    large_other: Tensor
    soft_spatial: Tensor
    soft_temporal: Tensor


class SyntheticPairs(Dataset[dict[str, Tensor]]):
    """Frames of a pool with their neighbours; samples have the keys of `PairSample`, half are mirrored.

    Args:
        pool: Pool to draw from.
        world: Table of the recipe for the simulated scenes.
        student: Student to train.
        stream: Number of the sequence of random draws.
        teachers: Whether samples have the large frames for the teachers.
        labels: Soft labels of the pool, if samples have them.
    """

    def __init__(
        self,
        pool: ScenePool,
        world: WorldTable,
        student: SkdSettings,
        stream: int,
        teachers: bool = False,
        labels: SoftLabels | None = None,
    ) -> None:
        self._pool, self._world, self._stream = pool, world, stream
        self._teachers, self._labels = teachers, labels
        self._student = student.preprocessing()
        self._teacher = Preprocessing(world.width, world.height)
        self._pair, self._lag_s = student.pair, student.lag_s

    def __len__(self) -> int:
        return DRAWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self._stream, index])
        shot = self._pool.draw(rng, self._world.twins, empty=self._world.empty)
        earlier, later = self._draw_positions(shot, rng)
        variation = Variation.draw(shot, rng) if self._world.augment else Variation.none(shot)
        before, after = variation.images([earlier, later])
        size = self._student
        if self._pair == "previous":
            frame, other, position = after, size.align(before, after), later
        else:
            frame, other, position = before, after, earlier
        density = gaze_density(variation, shot.index.ticks[position], size.width, size.height)
        sample = {"frame": size(frame)[0], "other": size(other)[0], "density": density[None]}
        if self._teachers:
            sample |= {"large_frame": self._teacher(frame)[0], "large_other": self._teacher(other)[0]}
        if self._labels is not None and shot.is_empty:
            # Teachers learn from scenes with targets alone, so they label no others: the wide density does.
            sample |= {f"soft_{teacher}": density[None] / density.max() for teacher in get_args(TeacherKind)}
        elif self._labels is not None:
            maps = variation.crop(self._labels.maps(shot, position))
            for teacher, saliency in zip(get_args(TeacherKind), maps, strict=True):
                sample[f"soft_{teacher}"] = resize_map(saliency, size.width, size.height)[None]
        mirrored = bool(rng.integers(2))
        return {
            name: torch.from_numpy(np.ascontiguousarray(value[..., ::-1] if mirrored else value))
            for name, value in sample.items()
        }

    def _draw_positions(self, shot: Shot, rng: np.random.Generator) -> tuple[int, int]:
        """Return the positions of an earlier and a later frame with about the wanted time between them."""
        ticks = np.array(shot.index.ticks)
        gaps = ticks[None, :] - ticks[:, None]  # of the later frame (column) to the earlier one (row)
        labelled = np.isin(np.arange(len(ticks)), shot.index.labelled)
        usable = (gaps > 0) & (labelled[None, :] if self._pair == "previous" else labelled[:, None])
        errors = np.where(usable, np.abs(gaps - self._draw_lag_s(rng) * TICKS_PER_S), np.inf)
        best = np.argwhere(errors <= errors.min())
        earlier, later = best[int(rng.integers(len(best)))].tolist()
        return earlier, later

    def _draw_lag_s(self, rng: np.random.Generator) -> float:
        """Return the time from frame to frame, or the lag, that a camera in the field has."""
        if rng.random() < SLOW_SHARE:
            return 1 / SLOW_FPS
        if self._lag_s:
            return float(self._lag_s * rng.uniform(1 - LAG_VARIATION, 1 + LAG_VARIATION))
        return math.exp(-rng.uniform(math.log(MIN_FPS), math.log(MAX_FPS)))
