"""A model's maps of clips, made before: shards by `aerogaze label`, or images by any other model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from trainer.data.map_shards import PLAN_FILE, ShardedMaps
from trainer.datasets.clips import PrecomputedMaps, read_image

Map = NDArray[np.float32]
TeacherKind = Literal["spatial", "temporal"]


def open_maps(folder: Path, which: TeacherKind | None = None) -> PrecomputedMaps:
    """Open a teacher's maps: of shards those named so or the only ones, or images. None: the mean of all.

    Raises:
        InputError: no folder, or shards with several maps a frame, none of that name.
    """
    if (folder / PLAN_FILE).is_file():
        maps = ShardedMaps(folder)
        names = maps.plan.maps
        if which is not None and which not in names and len(names) > 1:
            raise InputError(f"{folder} has maps {', '.join(names)}; expected one named {which}")
        return _ShardMaps(maps, [which] if which in names else names)
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}; expected maps by aerogaze label, or images <clip>/000000.png and on"
        )
    return _ImageMaps(folder)


class _ImageMaps:
    """Maps as `<clip>/000000.png`, 8 or 16 bit, as `aerogaze run --maps` writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def frames(self, clip: str) -> NDArray[np.int32]:
        stems = (path.stem for path in (self._folder / clip).glob("*.png"))
        return np.array([int(stem) for stem in stems if re.fullmatch(r"\d{6,9}", stem)], np.int32)

    def map(self, clip: str, frame: int) -> Map:
        path = self._folder / clip / f"{frame:06d}.png"
        image = read_image(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        if image is None:
            raise InputError(f"{path} cannot be read as an image; expected a map: make it again or remove it")
        return np.asarray(image / np.iinfo(image.dtype).max, np.float32)


class _ShardMaps:
    """The mean of some of a folder's maps."""

    def __init__(self, maps: ShardedMaps, names: Sequence[str]) -> None:
        self._maps, self._names = maps, names

    def frames(self, clip: str) -> NDArray[np.int32]:
        return self._maps.frames(clip)

    def map(self, clip: str, frame: int) -> Map:
        found = [np.minimum(self._maps.map(clip, frame, name), 1) for name in self._names]
        return np.asarray(np.mean(found, axis=0), np.float32)
