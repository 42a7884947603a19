"""Endless labelled clips from the made world, as a stream of training samples."""

from __future__ import annotations

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
LENGTH = 600
"""Frames of a scene's flight that pairs are taken from, anywhere."""


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
    """An endless stream of samples; scenes are numbered by seed, so that none comes twice.

    Rendering is dearer than a training step of a small student: each pair is drawn `world.reuse`
    times on average from a buffer of the last ones, mirrored at random.
    """

    def __init__(self, world: WorldTable, resolution: int, pair: Pair, seed: int, teachers: bool) -> None:
        self._world = world
        self._student = Preprocessing(resolution, resolution)
        self._teacher = Preprocessing(world.width, world.height)
        self._pair = pair
        self._seed = seed
        self._teachers = teachers

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield samples of `Sample`'s fields, for ever."""
        cv2.setNumThreads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        rng = np.random.default_rng([self._seed, worker])
        buffer: list[tuple[Array, Array, Array]] = []
        scene = self._world.first_scene + self._seed * 1_000_000 + worker
        while True:
            pairs = self._render(scene, rng)
            scene += workers
            buffer = (buffer + pairs)[-self._world.buffer :]
            for _ in range(len(pairs) * self._world.reuse):
                yield self._sample(*buffer[rng.integers(len(buffer))], mirrored=bool(rng.integers(2)))

    def _render(self, scene: int, rng: np.random.Generator) -> list[tuple[Array, Array, Array]]:
        table, size = self._world, self._student
        world = World(scene, table.width, table.height, FPS)
        pairs = []
        for then in rng.integers(0, LENGTH, table.pairs_per_scene).tolist():
            before, after = world.frame(then).image, world.frame(then + 1).image
            if self._pair == "previous":
                density = gaze_density(world, then + 1, size.width, size.height)
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
