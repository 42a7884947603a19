"""Endless labelled clips from the made world, as a stream of training samples."""

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
"""Scenes below `FIRST_TRAINING_SCENE` are never trained on; each stream has `SCENES_PER_STREAM` of its own."""
INITIAL_SCENES = 32
"""Scenes rendered before the first sample: a few batches' variety."""
SCENE_FRAMES, TWIN_SCENE_FRAMES = 600, 40
"""Frames of a scene's flight that pairs are taken from, anywhere; twins part soon."""
LAG_VARIATION = 1 / 3
"""Share by which a lag differs from sample to sample: frame rates in the field do."""


class PairSample(TypedDict):
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


class SyntheticStream(IterableDataset[dict[str, Tensor]], Generic[Item], ABC):
    """An endless stream of samples from scenes of its own.

    Rendering is dearer than a training step of a small student: each of a scene's `per_scene` items is
    drawn `reuse` times on average from a buffer of the last ones, mirrored at random. Streams with other
    numbers and workers share no scene, and none has a scene below `FIRST_TRAINING_SCENE`.
    """

    def __init__(self, stream: int, per_scene: int, buffer: int, reuse: int, first: int) -> None:
        self._stream, self._per_scene, self._buffer, self._reuse = stream, per_scene, buffer, reuse
        self._first = first
        self._part, self._parts, self._start = 0, 1, 0

    def share(self, part: int, parts: int, start: int) -> None:
        """Give part `part` of `parts`, from new scenes after about `start` samples of the whole."""
        self._part, self._parts, self._start = part, parts, start

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield samples for ever."""
        cv2.setNumThreads(1)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        worker, workers = self._part * workers + worker, self._parts * workers
        rng = np.random.default_rng([self._stream, worker, self._start])
        seen = self._start // (self._per_scene * self._reuse)
        scenes = itertools.count(
            FIRST_TRAINING_SCENE + self._stream * SCENES_PER_STREAM + seen + worker, workers
        )
        items: list[Item] = []
        while not items or len(items) < self._buffer // workers:  # first, each a few times in mixed order
            fresh = [item for _ in range(self._first) for item in self._render(next(scenes), rng)]
            items += fresh
            for index in map(int, rng.permutation(len(fresh) * self._reuse)):
                yield self._sample(fresh[index % len(fresh)], rng)
        while True:  # then from a buffer whose oldest items make room for new ones
            fresh = self._render(next(scenes), rng)
            items = items[len(fresh) :] + fresh
            for index in map(int, rng.integers(len(items), size=len(fresh) * self._reuse)):
                yield self._sample(items[index], rng)

    @abstractmethod
    def _render(self, scene: int, rng: np.random.Generator) -> list[Item]:
        """Return the scene's items."""

    @abstractmethod
    def _sample(self, item: Item, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return a sample of the item."""


PairItem = tuple[Array, Array, Array]


class SyntheticPairStream(SyntheticStream[PairItem]):
    """Frames with their neighbours: samples have `PairSample`'s fields."""

    def __init__(
        self,
        world: SkdWorldTable,
        student: SkdSettings,
        stream: int,
        teachers: bool,
    ) -> None:
        super().__init__(stream, world.pairs_per_scene, world.buffer, world.reuse, INITIAL_SCENES)
        self._world = world
        self._student = student.preprocessing()
        self._teacher = Preprocessing(world.width, world.height)
        self._pair = student.pair
        self._teachers = teachers
        self._lag = student.lag_s * FPS

    def _render(self, scene: int, rng: np.random.Generator) -> list[PairItem]:
        table, size = self._world, self._student
        twins = bool(table.twins and rng.random() < table.twins)
        world = World(scene, table.width, table.height, FPS, twins=twins)
        pairs = []
        length = TWIN_SCENE_FRAMES if twins else SCENE_FRAMES
        for then in rng.integers(0, length, table.pairs_per_scene).tolist():
            gap = max(1, round(self._lag * rng.uniform(1 - LAG_VARIATION, 1 + LAG_VARIATION)))
            before, after = world.frame(then).image, world.frame(then + gap).image
            if self._pair == "previous":
                density = gaze_density(world, then + gap, size.width, size.height)
                pairs.append((after, size.align(before, after), density))
            else:
                pairs.append((before, after, gaze_density(world, then, size.width, size.height)))
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
            sample |= {
                "large_frame": self._teacher(frame)[0],
                "large_other": self._teacher(other)[0],
            }
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in sample.items()}
