"""Precomputed saliency maps of clips: shards written by `aerogaze label`, or images by any model."""

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


def open_maps(folder: Path, teacher: TeacherKind | None = None) -> PrecomputedMaps:
    """Open a folder of precomputed maps.

    Args:
        folder: Folder of shards, or of images `<clip>/000000.png`.
        teacher: Which of several maps per frame to use. If shards have one map per frame, that one is used.
            None averages all maps of a frame.

    Raises:
        InputError: No such folder, or shards with several maps per frame of which none has that name.
    """
    if (folder / PLAN_FILE).is_file():
        maps = ShardedMaps(folder)
        names = maps.plan.maps
        if teacher is not None and teacher not in names and len(names) > 1:
            raise InputError(f"{folder} has maps {', '.join(names)}; expected one named {teacher}")
        return _ShardMaps(maps, [teacher] if teacher in names else names)
    if not folder.is_dir():
        raise InputError(
            f"no folder {folder}; expected maps by aerogaze label, or images <clip>/000000.png and on"
        )
    return _ImageMaps(folder)


def resize_map(saliency: Map, width: int, height: int) -> Map:
    """Return a map (H, W) resized to (height, width): by area if it shrinks, otherwise bilinearly."""
    shrinks = saliency.shape[1] > width or saliency.shape[0] > height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(saliency, (width, height), interpolation=interpolation), np.float32)


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
    """Mean of the selected maps of each frame in a folder of shards."""

    def __init__(self, maps: ShardedMaps, names: Sequence[str]) -> None:
        self._maps, self._names = maps, names

    def frames(self, clip: str) -> NDArray[np.int32]:
        return self._maps.frames(clip)

    def map(self, clip: str, frame: int) -> Map:
        maps = [np.minimum(self._maps.map(clip, frame, name), 1) for name in self._names]
        return np.asarray(np.mean(maps, axis=0), np.float32)
