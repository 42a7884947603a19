"""Endless streams of training samples from simulated scenes."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypedDict, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World
from trainer.data.gaze_model import gaze_density
from trainer.models.student import SkdSettings
from trainer.recipes.loader import SkdWorldTable

Array = NDArray[Any]
Item = TypeVar("Item")
FPS = NOMINAL_FPS
FIRST_TRAINING_SCENE = SCENES_PER_STREAM = 1_000_000_000
"""Scenes below `FIRST_TRAINING_SCENE` are for evaluation. Each stream has `SCENES_PER_STREAM` scenes."""
SYNTHETIC_DATA = "made world"
"""Name of the simulated scenes in a student's record of its training, as stored in files."""
INITIAL_SCENES = 32
"""Scenes that are rendered before the first sample, so that the first batches are varied."""
SCENE_FRAMES, TWIN_SCENE_FRAMES = 600, 40
"""Frames of a scene from which pairs are drawn. Twins drift apart soon, so their scenes are shorter."""
LAG_VARIATION = 1 / 3
"""Largest relative change of the lag from sample to sample, because frame rates in the field vary."""


class PairSample(TypedDict):
    """A frame, its neighbour in time and where viewers look in the frame.

    All values are float32. The large frames are present only if teachers are used.

    Attributes:
        frame: Input of the student, (3, R, R).
        other: The neighbour as input of the student, (3, R, R).
        density: Fixation density of the frame, (1, R, R), sums to 1.
        large_frame: Input of the teachers, (3, H, W).
        large_other: The neighbour as input of the teachers, (3, H, W).
    """

    frame: Tensor
    other: Tensor
    density: Tensor
    large_frame: Tensor
    large_other: Tensor


class SyntheticStream(IterableDataset[dict[str, Tensor]], Generic[Item], ABC):
    """Endless data set of samples from simulated scenes; `share()` sets rank, world size and offset.

    Rendering takes longer than a training step of a small student. Therefore each item of a scene is drawn
    `reuse` times on average, from a buffer of the latest items, and mirrored at random. Streams with
    different numbers, and different workers, share no scene. No stream uses a scene for evaluation.

    Args:
        stream: Number of the stream.
        per_scene: Items that each scene yields.
        buffer: Items in the buffer, summed over all workers.
        reuse: How often an item is drawn on average.
        first: Scenes that are rendered before the first sample.
    """

    def __init__(self, stream: int, per_scene: int, buffer: int, reuse: int, first: int) -> None:
        self._stream, self._per_scene, self._buffer, self._reuse = stream, per_scene, buffer, reuse
        self._first = first
        self._rank, self._world_size, self._start = 0, 1, 0

    def share(self, rank: int, world_size: int, start: int) -> None:
        """Set which share of the stream this process yields.

        Args:
            rank: Index of this process.
            world_size: Number of processes.
            start: Samples that all processes together have consumed before. The stream continues with
                new scenes, so the offset is approximate.
        """
        self._rank, self._world_size, self._start = rank, world_size, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield samples forever."""
        cv2.setNumThreads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker, workers = self._rank * workers + worker, self._world_size * workers
        rng = np.random.default_rng([self._stream, worker, self._start])
        used_scenes = self._start // (self._per_scene * self._reuse)
        first_scene = FIRST_TRAINING_SCENE + self._stream * SCENES_PER_STREAM + used_scenes + worker
        scenes = itertools.count(first_scene, workers)
        items: list[Item] = []
        # While the buffer fills, each new item is drawn `reuse` times in random order.
        while not items or len(items) < self._buffer // workers:
            fresh = [item for _ in range(self._first) for item in self._render(next(scenes), rng)]
            items += fresh
            for index in map(int, rng.permutation(len(fresh) * self._reuse)):
                yield self._sample(fresh[index % len(fresh)], rng)
        # Then new items replace the oldest, and samples come from the whole buffer.
        while True:
            fresh = self._render(next(scenes), rng)
            items = items[len(fresh) :] + fresh
            for index in map(int, rng.integers(len(items), size=len(fresh) * self._reuse)):
                yield self._sample(items[index], rng)

    @abstractmethod
    def _render(self, scene: int, rng: np.random.Generator) -> list[Item]:
        """Return the items of a scene."""

    @abstractmethod
    def _sample(self, item: Item, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return a sample made from an item."""


PairItem = tuple[Array, Array, Array]
"""Frame, its neighbour and its density."""


class SyntheticPairStream(SyntheticStream[PairItem]):
    """Endless stream of frames with their neighbours; samples have the keys of `PairSample`.

    Args:
        world: Table of the recipe for the simulated scenes.
        student: Student to train.
        stream: Number of the stream.
        teachers: Whether samples have the large frames for the teachers.
    """

    def __init__(self, world: SkdWorldTable, student: SkdSettings, stream: int, teachers: bool) -> None:
        super().__init__(stream, world.pairs_per_scene, world.buffer, world.reuse, INITIAL_SCENES)
        self._world = world
        self._student = student.preprocessing()
        self._teacher = Preprocessing(world.width, world.height)
        self._pair = student.pair
        self._teachers = teachers
        self._lag_frames = student.lag_s * FPS

    def _render(self, scene: int, rng: np.random.Generator) -> list[PairItem]:
        table, size = self._world, self._student
        twins = bool(table.twins and rng.random() < table.twins)
        world = World(scene, table.width, table.height, FPS, twins=twins)
        pairs = []
        length = TWIN_SCENE_FRAMES if twins else SCENE_FRAMES
        for index in rng.integers(0, length, table.pairs_per_scene).tolist():
            gap = max(1, round(self._lag_frames * rng.uniform(1 - LAG_VARIATION, 1 + LAG_VARIATION)))
            before, after = world.frame(index).image, world.frame(index + gap).image
            if self._pair == "previous":
                density = gaze_density(world, index + gap, size.width, size.height)
                pairs.append((after, size.align(before, after), density))
            else:
                pairs.append((before, after, gaze_density(world, index, size.width, size.height)))
        return pairs

    def _sample(self, item: PairItem, rng: np.random.Generator) -> dict[str, Tensor]:
        frame, other, density = item
        if rng.integers(2):
            frame, other, density = (np.ascontiguousarray(a[:, ::-1]) for a in (frame, other, density))
        sample = {
            "frame": self._student(frame)[0],
            "other": self._student(other)[0],
            "density": density[None],
        }
        if self._teachers:
            sample |= {"large_frame": self._teacher(frame)[0], "large_other": self._teacher(other)[0]}
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in sample.items()}
