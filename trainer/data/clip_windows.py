"""Samples for networks that take a clip: windows of consecutive frames with densities of the last frames.

A window is identified by its last frame. Frames before the start of a clip repeat its first frame, as when a
student runs on a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edge.core.errors import InputError
from edge.core.frames import Image
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from edge.preprocessing.transform import Preprocessing
from trainer.data.augmentation import Variation
from trainer.data.gaze_model import gaze_density
from trainer.data.scene_pool import ScenePool
from trainer.data.synthetic_pairs import DRAWS
from trainer.datasets import clips
from trainer.models.mobilenet3d import CLIP_FRAMES
from trainer.recipes.loader import WorldTable

WINDOWS_PER_CLIP = 100
"""Windows of each clip in an epoch."""
FPS = 30.0
"""Frame rate of the data sets, and of scenes rendered for networks that have no notion of time."""

Array = NDArray[Any]


class WindowSample(TypedDict):
    """A window of T frames and where viewers look in its last K frames, both float32.

    Attributes:
        clip: Input of the network, (3, T, H, W); with alignment (6, T, H, W).
        density: Fixation densities, (K, H, W). Each sums to 1, or is empty where it is unknown. The key is
            missing if K is 0.
    """

    clip: Tensor
    density: Tensor


@dataclass(frozen=True)
class WindowShape:
    """Shape of the windows that a stage is trained on.

    Attributes:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        frames: Frames in a window.
        densities: How many of the last frames have a density.
        every: Distance between two frames of a window, in frames of the data set.
        preprocessing: Preprocessing of the student; None resizes to `height` and `width`.
    """

    height: int
    width: int
    frames: int = CLIP_FRAMES
    densities: int = 1
    every: int = 1
    preprocessing: Preprocessing | None = None

    def sample(
        self, images: Sequence[Image], densities: Sequence[Array], mirrored: bool
    ) -> dict[str, Tensor]:
        """Return a sample made from images (h, w, 3), BGR, and densities (h, w)."""
        prepare = self.preprocessing or Preprocessing(self.width, self.height)
        # A student with a notion of time gets its windows at the nominal rate; others ignore the rate.
        arrays = {"clip": prepare.stack_window(images, NOMINAL_FPS)[0]}
        if self.densities:
            arrays["density"] = np.stack([self._resize_density(density) for density in densities])
        arrays = {name: values[..., ::-1] if mirrored else values for name, values in arrays.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}

    def _resize_density(self, density: Array) -> Array:
        if density.shape != (self.height, self.width):
            density = cv2.resize(density, (self.width, self.height), interpolation=cv2.INTER_AREA)
        total = float(density.sum(dtype=np.float64))
        return (density / total if total > 0 else density).astype(np.float32)


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Random windows of a data set's clips, `WINDOWS_PER_CLIP` of each clip, half of them mirrored.

    A window ends with any frame. If the data set got precomputed maps, it ends with a frame that has a
    density or a map. An unreadable frame is replaced by its neighbour's image and has no density. If no
    frame of a window can be read, a window of the next clip is returned. Clips are opened on access.

    Args:
        dataset: Data set to draw from.
        shape: Shape of the windows.
        seed: Seed of the positions and of the mirroring.

    Raises:
        InputError: On access, no frame of any clip can be read.
    """

    def __init__(self, dataset: clips.SaliencyDataset, shape: WindowShape, seed: int) -> None:
        self._dataset, self._shape, self._seed = dataset, shape, seed

    def __len__(self) -> int:
        return len(self._dataset.clips) * WINDOWS_PER_CLIP

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        all_clips = self._dataset.clips
        rng = np.random.default_rng([self._seed, index])
        position, mirrored = rng.random(), bool(rng.integers(2))
        for step in range(len(all_clips)):
            clip = all_clips[(index + step) % len(all_clips)]
            first = min(CLIP_FRAMES, len(clip)) - 1
            last = clip.nearest_labelled(first + int(position * (len(clip) - first)))
            sample = self.window(clip, last, mirrored)
            if sample is not None:
                return sample
        raise InputError(
            f"no frame of {self._dataset.kind} at {self._dataset.root} can be read; the first fault: "
            f"{next(iter(self._dataset.describe_faults()), 'clips without frames')}"
        )

    def window(self, clip: clips.DatasetClip, last: int, mirrored: bool = False) -> dict[str, Tensor] | None:
        """Return the sample that ends with frame `last`, or None if none of its frames can be read."""
        shape = self._shape
        indices = range(last - (shape.frames - 1) * shape.every, last + 1, shape.every)
        readable = dict(clip.images(max(0, indices[0]), last + 1))
        if not readable:
            return None
        images: list[Image] = []
        densities: list[Array] = []
        image = readable[min(readable)]
        for index in indices:
            image = readable.get(max(index, 0), image)
            images.append(image)
            if index > last - shape.densities * shape.every:
                density = clip.density(max(index, 0), image) if max(index, 0) in readable else None
                densities.append(np.zeros(image.shape[:2], np.float32) if density is None else density)
        return shape.sample(images, densities, mirrored)


class SyntheticWindows(Dataset[dict[str, Tensor]]):
    """Random windows of the clips of a pool, half of them mirrored.

    Args:
        pool: Pool to draw from.
        world: Table of the recipe for the simulated scenes.
        shape: Shape of the windows; a window has consecutive frames of a clip.
        stream: Number of the sequence of random draws.
    """

    def __init__(self, pool: ScenePool, world: WorldTable, shape: WindowShape, stream: int) -> None:
        self._pool, self._world, self._shape, self._stream = pool, world, shape, stream

    def __len__(self) -> int:
        return DRAWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        rng, shape = np.random.default_rng([self._stream, index]), self._shape
        shot = self._pool.draw(rng, self._world.twins, clip=True, empty=self._world.empty)
        variation = Variation.draw(shot, rng) if self._world.augment else Variation.none(shot)
        ticks = shot.index.ticks
        last = int(rng.integers(min(CLIP_FRAMES, shape.frames, len(ticks)) - 1, len(ticks)))
        positions = np.arange(last - shape.frames + 1, last + 1).clip(0).tolist()
        images = variation.images(range(positions[0], last + 1))
        densities = [
            gaze_density(variation, ticks[position], shape.width, shape.height)
            for position in positions[len(positions) - shape.densities :]
        ]
        return shape.sample([images[p - positions[0]] for p in positions], densities, bool(rng.integers(2)))


class MixedWindowDataset(Dataset[dict[str, Tensor]]):
    """Labelled windows and auxiliary windows in turn.

    The density of an auxiliary window is empty, so that it is learnt from the teacher alone.
    """

    def __init__(
        self, labelled: WindowDataset | SyntheticWindows, auxiliary: WindowDataset, seed: int
    ) -> None:
        self._labelled, self._auxiliary, self._seed = labelled, auxiliary, seed

    def __len__(self) -> int:
        return 2 * len(self._labelled)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index % 2 == 0:
            return self._labelled[index // 2]
        auxiliary_index = np.random.default_rng([self._seed, index]).integers(len(self._auxiliary))
        return self._auxiliary[int(auxiliary_index)]
