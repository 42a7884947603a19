"""Endless labelled clips from the made world, as a stream of training samples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from edge.preprocess import Preprocessing
from edge.world import World
from trainer.gaze import gaze_density
from trainer.models.student import Pair
from trainer.recipes import WorldTable

Array = NDArray[Any]
FPS = 10.0
EVALUATION = STREAM = 1_000_000_000
"""Scenes below `EVALUATION` are never trained on; each stream has `STREAM` of its own."""
FIRST = 32
"""Scenes rendered before the first sample: a few batches' variety."""
LENGTH = 600
"""Frames of a scene's flight that pairs are taken from, anywhere."""
VARIED = 1 / 3
"""Share by which a lag differs from sample to sample: frame rates in the field do."""


class Sample(TypedDict):
    """A frame, its neighbour in time, and where viewers look in it.

    `frame` and `other`: (3, R, R), the student's input; `large_frame` and `large_other`:
    (3, H, W), the teachers'; `density`: (1, R, R), sums to one; all float32. The large ones are
    there only if teachers are to be used.
    """

    frame: Tensor
    other: Tensor
    density: Tensor
    large_frame: Tensor
    large_other: Tensor


class MadeClips(IterableDataset[dict[str, Tensor]]):
    """An endless stream of samples from scenes of its own.

    Rendering is dearer than a training step of a small student: each pair is drawn `world.reuse`
    times on average from a buffer of the last ones, mirrored at random. Streams with other numbers
    and workers share no scene, and none has a scene below `EVALUATION`.
    """

    def __init__(
        self,
        world: WorldTable,
        resolution: int,
        pair: Pair,
        stream: int,
        teachers: bool,
        lag_s: float = 0.0,
    ) -> None:
        self._world = world
        self._student = Preprocessing(resolution, resolution)
        self._teacher = Preprocessing(world.width, world.height)
        self._pair = pair
        self._stream = stream
        self._teachers = teachers
        self._lag = lag_s * FPS
        self._part, self._parts, self._start = 0, 1, 0

    def share(self, part: int, parts: int, start: int) -> None:
        """Give part `part` of `parts`, from new scenes after about `start` samples of the whole."""
        self._part, self._parts, self._start = part, parts, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield samples of `Sample`'s fields, for ever."""
        cv2.setNumThreads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker, workers = self._part * workers + worker, self._parts * workers
        rng = np.random.default_rng([self._stream, worker, self._start])
        table = self._world
        seen = self._start // (table.pairs_per_scene * table.reuse)
        scenes = itertools.count(EVALUATION + self._stream * STREAM + seen + worker, workers)
        pairs: list[tuple[Array, Array, Array]] = []
        while len(pairs) < table.buffer // workers:  # first, each pair a few times in mixed order
            fresh = [pair for _ in range(FIRST) for pair in self._render(next(scenes), rng)]
            pairs += fresh
            for index in map(int, rng.permutation(len(fresh) * table.reuse)):
                yield self._sample(*fresh[index % len(fresh)], mirrored=bool(rng.integers(2)))
        while True:  # then from a buffer whose oldest pairs make room for new ones
            fresh = self._render(next(scenes), rng)
            pairs = pairs[len(fresh) :] + fresh
            for index in map(int, rng.integers(len(pairs), size=len(fresh) * table.reuse)):
                yield self._sample(*pairs[index], mirrored=bool(rng.integers(2)))

    def _render(self, scene: int, rng: np.random.Generator) -> list[tuple[Array, Array, Array]]:
        table, size = self._world, self._student
        world = World(scene, table.width, table.height, FPS)
        pairs = []
        for then in rng.integers(0, LENGTH, table.pairs_per_scene).tolist():
            gap = max(1, round(self._lag * rng.uniform(1 - VARIED, 1 + VARIED)))
            before, after = world.frame(then).image, world.frame(then + gap).image
            if self._pair == "previous":
                density = gaze_density(world, then + gap, size.width, size.height)
                pairs.append((after, before, density))
            else:
                pairs.append((before, after, gaze_density(world, then, size.width, size.height)))
        return pairs

    def _sample(self, frame: Array, other: Array, density: Array, mirrored: bool) -> dict[str, Tensor]:
        if mirrored:
            frame, other, density = (np.ascontiguousarray(a[:, ::-1]) for a in (frame, other, density))
        sample = {
            "frame": self._student(frame)[0],
            "other": self._student(other)[0],
            "density": density[None],
        }
        if self._teachers:
            sample |= {
                "large_frame": self._teacher(frame)[0],
                "large_other": self._teacher(other)[0],
            }
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in sample.items()}
