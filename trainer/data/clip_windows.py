"""Samples for networks that see a clip: windows of consecutive frames with the density of the last ones.

A window is named by its last frame. Frames before a clip's first repeat it, as when a student runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from edge.core.errors import InputError
from edge.core.frames import Image
from edge.preprocessing.transform import Preprocessing
from edge.simulation.world import World
from trainer.data.gaze_model import gaze_density
from trainer.data.synthetic_pairs import SyntheticStream
from trainer.datasets import clips
from trainer.models.mobilenet3d import CLIP_FRAMES

WINDOWS_PER_CLIP = 100
"""Windows drawn of each clip before one comes again."""
FPS = 30.0
"""The rate of the data sets, and of what is made for networks without a notion of time."""
INITIAL_SCENES = 4
"""Flights rendered before the first sample."""

Array = NDArray[Any]


class WindowSample(TypedDict):
    """A window of T frames and where viewers look in its last K.

    `clip`: (3, T, H, W), the networks' input; `density`: (K, H, W), each sums to one, or is empty where
    that is not known; both float32. Where K is 0 there is none.
    """

    clip: Tensor
    density: Tensor


@dataclass(frozen=True)
class WindowShape:
    """What a stage wants of a window: its `frames`, the last of them with a density, the sides.

    `every`: of a data set's frames, how far apart those of a window are.
    `preprocessing`: of the student that is shown it, if more than a resize to these sides.
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
        """Return the sample of images (h, w, 3), BGR, and densities (h, w)."""
        prepare = self.preprocessing or Preprocessing(self.width, self.height)
        clip = prepare.stack_window(images)[0]
        sample = {"clip": clip}
        if self.densities:
            sample["density"] = np.stack([self._density(density) for density in densities])
        turned = {name: values[..., ::-1] if mirrored else values for name, values in sample.items()}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in turned.items()}

    def _density(self, density: Array) -> Array:
        if density.shape != (self.height, self.width):
            density = cv2.resize(density, (self.width, self.height), interpolation=cv2.INTER_AREA)
        total = float(density.sum(dtype=np.float64))
        return (density / total if total > 0 else density).astype(np.float32)


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of a data set's clips, `WINDOWS_PER_CLIP` of each, half of them mirrored.

    They lie anywhere in it, or, if it was taught by maps, end with a frame that has a density or a map.

    A frame that cannot be read is its neighbour's image without density; a window of which nothing can
    be read gives way to the next clip's. Clips are opened when they are asked for.

    Raises:
        InputError: on access, nothing can be read of any clip.
    """

    def __init__(self, dataset: clips.SaliencyDataset, shape: WindowShape, seed: int) -> None:
        self._dataset, self._shape, self._seed = dataset, shape, seed

    def __len__(self) -> int:
        return len(self._dataset.clips) * WINDOWS_PER_CLIP

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        all_clips = self._dataset.clips
        rng = np.random.default_rng([self._seed, index])
        place, mirrored = rng.random(), bool(rng.integers(2))
        for step in range(len(all_clips)):
            clip = all_clips[(index + step) % len(all_clips)]
            first = min(CLIP_FRAMES, len(clip)) - 1
            last = clip.nearest_labelled(first + int(place * (len(clip) - first)))
            sample = self.window(clip, last, mirrored)
            if sample is not None:
                return sample
        raise InputError(
            f"no frame of {self._dataset.kind} at {self._dataset.root} can be read; the first fault: "
            f"{next(iter(self._dataset.describe_faults()), 'clips without frames')}"
        )

    def window(self, clip: clips.DatasetClip, last: int, mirrored: bool = False) -> dict[str, Tensor] | None:
        """Return the sample that ends with frame `last`; None if none of its frames can be read."""
        shape = self._shape
        wanted = range(last - (shape.frames - 1) * shape.every, last + 1, shape.every)
        read = dict(clip.images(max(0, wanted[0]), last + 1))
        if not read:
            return None
        images: list[Image] = []
        densities: list[Array] = []
        image = read[min(read)]
        for index in wanted:
            image = read.get(max(index, 0), image)
            images.append(image)
            if index > last - shape.densities * shape.every:
                density = clip.density(max(index, 0), image) if max(index, 0) in read else None
                densities.append(np.zeros(image.shape[:2], np.float32) if density is None else density)
        return shape.sample(images, densities, mirrored)


class RenderedClip(NamedTuple):
    """Consecutive frames (N, H, W, 3), uint8 BGR, of a made scene, and their densities (N, H, W)."""

    images: Array
    densities: Array


class SyntheticWindowStream(SyntheticStream[RenderedClip]):
    """Windows of the made world's flights: an endless stream of samples, half of them mirrored.

    `size`: width and height of the frames rendered, if not the shape's.
    """

    def __init__(
        self,
        shape: WindowShape,
        flight: int,
        buffer: int,
        reuse: int,
        stream: int,
        size: tuple[int, int] | None = None,
        fps: float = FPS,
    ) -> None:
        super().__init__(stream, 1, buffer, reuse, min(INITIAL_SCENES, buffer))
        self._shape, self._flight, self._fps = shape, flight, fps
        self._size = size or (shape.width, shape.height)

    def _render(self, scene: int, rng: np.random.Generator) -> list[RenderedClip]:
        del rng
        width, height = self._size
        world = World(scene, width, height, self._fps)
        images = np.stack([world.frame(index).image for index in range(self._flight)])
        if not self._shape.densities:
            return [RenderedClip(images, np.empty((len(images), 0, 0), np.float16))]
        densities = [gaze_density(world, index, width, height) for index in range(self._flight)]
        # Half precision is fine for what lies in 0 to 1, not for a density that sums to one.
        return [RenderedClip(images, np.stack([d / d.max() for d in densities]).astype(np.float16))]

    def _sample(self, item: RenderedClip, rng: np.random.Generator) -> dict[str, Tensor]:
        shape = self._shape
        last = int(rng.integers(min(CLIP_FRAMES, shape.frames, len(item.images)) - 1, len(item.images)))
        wanted = np.arange(last - shape.frames + 1, last + 1).clip(0)
        densities = item.densities[wanted[len(wanted) - shape.densities :]].astype(np.float32)
        return shape.sample(list(item.images[wanted]), list(densities), bool(rng.integers(2)))


class MixedWindowDataset(Dataset[dict[str, Tensor]]):
    """Labelled windows and as many auxiliary ones, whose density is empty: the teacher alone tells."""

    def __init__(self, labelled: WindowDataset, auxiliary: WindowDataset, seed: int) -> None:
        self._labelled, self._auxiliary, self._seed = labelled, auxiliary, seed

    def __len__(self) -> int:
        return 2 * len(self._labelled)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index % 2 == 0:
            return self._labelled[index // 2]
        drawn = np.random.default_rng([self._seed, index]).integers(len(self._auxiliary))
        return self._auxiliary[int(drawn)]


class MixedWindowStream(IterableDataset[dict[str, Tensor]]):
    """An endless stream of labelled samples, an auxiliary window after each."""

    def __init__(self, labelled: SyntheticStream[RenderedClip], auxiliary: WindowDataset, seed: int) -> None:
        self._labelled, self._auxiliary, self._seed = labelled, auxiliary, seed
        self._shared = (0, 1, 0)

    def share(self, part: int, parts: int, start: int) -> None:
        """Give part `part` of `parts`, as if `start` samples of it had been given before."""
        self._shared = (part, parts, start)
        self._labelled.share(part, parts, start // 2)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield samples for ever."""
        worker = getattr(get_worker_info(), "id", 0)
        rng = np.random.default_rng([self._seed, worker, *self._shared])
        for sample in self._labelled:
            yield sample
            yield self._auxiliary[int(rng.integers(len(self._auxiliary)))]
