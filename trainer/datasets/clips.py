"""What every reader gives: clips of frames with where viewers looked, each file read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import Image
from edge.sources.image_folder import SUFFIXES as IMAGE_SUFFIXES
from edge.sources.image_folder import natural_sort_key
from trainer.datasets.matlab_maps import list_mat_files, read_mat_file

Density = NDArray[np.float32]
Fixations = NDArray[np.int64]
Box = tuple[float, float, float, float]
LabelKind = Literal["density", "fixations", "box"]
Split = Literal["train", "val", "test"]
Faults = dict[Path, str]
"""Files that could not be used, and why: filled while frames are read."""


@dataclass(frozen=True)
class LabelledFrame:
    """A frame (H, W, 3), uint8 BGR, and what is known of where viewers looked; None where unknown.

    `index` counts from 0 within the clip. `density`: (H, W) in [0, 1], as stored, not sum-normalised.
    `fixations`: (N, 2), row and column in pixels. `box`: x, y, w, h in pixels of the one tracked target.
    """

    index: int
    image: Image
    density: Density | None
    fixations: Fixations | None
    box: Box | None


class ImageSequence(Protocol):
    """A clip's images, wherever they lie."""

    def __len__(self) -> int:
        """Return how many there are, or are announced."""

    def key(self, index: int) -> str:
        """Return the stem that the frame's label files have."""

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image (H, W, 3), BGR; what cannot be read is left out and recorded."""


class PrecomputedMaps(Protocol):
    """A model's maps of some clips, made before."""

    def frames(self, clip: str) -> NDArray[np.int32]:
        """Return the indices of the clip's frames that have maps."""

    def map(self, clip: str, frame: int) -> Density:
        """Return a map (h, w) in [0, 1]."""


class DatasetClip:
    """A named run of frames with its labels.

    `density`, `fixations`: the folders where the layout keeps them, there or not; None where the
    layout knows none. `list_mat_files`: where fixations are .mat files, read for frames without an image of
    them. `blobs`: a fixation is drawn as a small blob, not as a pixel. `boxes`: (N, 4).
    """

    def __init__(
        self,
        name: str,
        split: Split | None,
        pictures: ImageSequence,
        faults: Faults,
        density: Path | None = None,
        fixations: Path | None = None,
        list_mat_files: Path | None = None,
        blobs: bool = False,
        boxes: NDArray[np.float64] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self._pictures = pictures
        self._faults = faults
        self._folders = {"density": density, "fixations": fixations}
        self._matrices = list_mat_files
        self._blobs = blobs
        self._boxes = boxes
        self._maps: PrecomputedMaps | None = None

    def with_maps(self, maps: PrecomputedMaps) -> DatasetClip:
        """Return the clip with maps for the densities of frames that have none."""
        clip = copy(self)
        clip.__dict__.pop("_mapped", None)
        clip._maps = maps
        return clip

    def __len__(self) -> int:
        return len(self._pictures)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[LabelledFrame]:
        """Yield the frames from `start` to before `stop`; unreadable ones are left out and recorded."""
        for index, image in self.images(start, len(self) if stop is None else stop):
            fixations = self._label("fixations", index, image.shape[:2])
            yield LabelledFrame(
                index,
                image,
                self.density(index, image),
                None if fixations is None else _points(fixations, self._blobs),
                self._box(index),
            )

    def images(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image from `start` to before `stop`; unreadable ones are left out and recorded."""
        yield from self._pictures.read(start, min(len(self), stop))

    def density(self, index: int, image: Image) -> Density | None:
        """Return the density of the frame at an index, which is `image`; None where there is none."""
        label = self._label("density", index, image.shape[:2])
        if label is not None:
            return np.asarray(label / np.float32(255), np.float32)
        if self._maps is None or index not in self._mapped:
            return None
        try:
            mapped = self._maps.map(self.name, index)
        except InputError as error:
            self._faults[Path(self.name)] = str(error)
            return None
        return np.asarray(cv2.resize(mapped, (image.shape[1], image.shape[0])), np.float32)

    def nearest_labelled(self, index: int) -> int:
        """Return, of a clip that was taught, the nearest frame with a density or a map; else the index."""
        known = self.labelled_frames("density") if self._maps else []
        return min(known, key=lambda at: abs(at - index), default=index)

    def relative_fixations(self, index: int) -> NDArray[np.float64]:
        """Return the frame's fixations (N, 2), row and column as shares of height and width, imageless."""
        label = self._label("fixations", index, None)
        if label is None:
            return np.empty((0, 2))
        return (_points(label, self._blobs) + 0.5) / label.shape

    @property
    def label_kinds(self) -> frozenset[LabelKind]:
        """What some of the frames have labels of."""
        found: set[LabelKind] = {truth for truth, files in self._labels.items() if files}
        found |= {"density"} if len(self._mapped) else set()
        return frozenset(found | {"box"} if self._boxes is not None else found)

    def labelled_frames(self, truth: LabelKind) -> list[int]:
        """Return the indices of the frames that have a density or fixations, no file of them opened."""
        files = self._labels.get(truth) or {}
        found = (
            {index for index in range(len(self)) if self._pictures.key(index) in files} if files else set()
        )
        return sorted(found.union(self._mapped.tolist() if truth == "density" else ()))

    def missing_labels(self) -> dict[LabelKind, int]:
        """Return how many frames lack each truth that the layout has a place for, where any does."""
        counts: dict[LabelKind, int] = {}
        for truth, folder in self._labels.items():
            if folder is not None:
                counts[truth] = len(self) - len(self.labelled_frames(truth))
        if self._boxes is not None:
            counts["box"] = sum(self._box(index) is None for index in range(len(self)))
        return {truth: count for truth, count in counts.items() if count}

    @cached_property
    def _mapped(self) -> NDArray[np.int32]:
        """The frames that have maps; those of another cut of the clip may be beyond its end."""
        found = self._maps.frames(self.name) if self._maps else np.empty(0, np.int32)
        return found[found < len(self)] if len(found) else found

    @cached_property
    def _labels(self) -> dict[LabelKind, dict[str, Path] | None]:
        density, fixations = (None if f is None else images(f) for f in self._folders.values())
        if fixations is not None and self._matrices is not None:
            fixations = list_mat_files(self._matrices) | fixations
        return {"density": density, "fixations": fixations}

    def _label(self, truth: LabelKind, index: int, size: tuple[int, ...] | None) -> NDArray[np.uint8] | None:
        path = (self._labels[truth] or {}).get(self._pictures.key(index))
        if path is None:
            return None
        try:
            label = read_mat_file(path) if path.suffix == ".mat" else read_image(path, cv2.IMREAD_GRAYSCALE)
        except ValueError as error:
            self._faults[path] = str(error)
            return None
        if label is None:
            self._faults[path] = "not readable as an image"
        elif size is not None and label.shape != size:
            self._faults[path] = f"{label.shape[1]}x{label.shape[0]}, but its frame is {size[1]}x{size[0]}"
            label = None
        return label

    def _box(self, index: int) -> Box | None:
        if self._boxes is None or index >= len(self._boxes) or not np.isfinite(self._boxes[index]).all():
            return None
        x, y, w, h = (float(value) for value in self._boxes[index])
        return x, y, w, h


@dataclass(frozen=True)
class SaliencyDataset:
    """The clips under a root. `faults` grows while they are read."""

    kind: str
    root: Path
    split: str | None
    clips: Sequence[DatasetClip]
    faults: Faults

    def with_maps(self, maps: PrecomputedMaps) -> SaliencyDataset:
        """Return the data set with maps for densities where there are none, less the clips without either.

        Raises:
            InputError: there is no map of any clip.
        """
        mapped = {clip.name for clip in self.clips if len(maps.frames(clip.name))}
        if not mapped:
            raise InputError(
                f"none of the maps is of a clip of {self.kind} at {self.root}; expected maps of clips named "
                f"as {self.clips[0].name}: aerogaze label --dataset {self.kind} --root {self.root}"
            )
        kept = [clip for clip in self.clips if clip.name in mapped or "density" in clip.label_kinds]
        return replace(self, clips=[clip.with_maps(maps) for clip in kept])

    def missing_labels(self) -> dict[LabelKind, Mapping[str, int]]:
        """Return, for each truth that frames lack, how many in which clips."""
        found: dict[LabelKind, dict[str, int]] = {}
        for clip in self.clips:
            for truth, count in clip.missing_labels().items():
                counts = found.setdefault(truth, {})
                counts[clip.name] = counts.get(clip.name, 0) + count
        return dict(found)

    def describe_faults(self) -> list[str]:
        """Return the files that could not be used so far, from the root, each with its reason."""
        return [
            f"{path.relative_to(self.root) if path.is_relative_to(self.root) else path}: {why}"
            for path, why in self.faults.items()
        ]

    def summary(self) -> str:
        """Return a few lines for a person: what is there, what is missing, what could not be read."""
        frames = sum(map(len, self.clips))
        lines = [
            f"{self.kind} at {self.root}: {pluralize(len(self.clips), 'clip')}, {pluralize(frames, 'frame')}"
        ]
        for truth, counts in self.missing_labels().items():
            lacking = sum(counts.values())
            clips = f"{pluralize(len(counts), 'clip')}: {abbreviate(list(counts))}"
            lines.append(f"no {truth} for {pluralize(lacking, 'frame')} of {clips}")
        if self.faults:
            lines.append(
                f"{pluralize(len(self.faults), 'file')} at fault: {abbreviate(self.describe_faults())}"
            )
        return "\n".join(lines)


def images(folder: Path) -> dict[str, Path]:
    """Return the folder's images by stem, in numbered order; none where there is no folder."""
    if not folder.is_dir():
        return {}
    found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    return {path.stem: path for path in sorted(found, key=natural_sort_key)}


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in numbered order; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."), key=natural_sort_key)


def read_image(path: Path, mode: int) -> NDArray[np.uint8] | None:
    """Return the image as OpenCV's `mode` asks, or None where it cannot be read."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        return None
    try:
        return cv2.imdecode(data, mode) if data.size else None  # type: ignore[return-value]
    except cv2.error:  # as for a header that claims a billion pixels
        return None


def layout_error(kind: str, root: Path, expected: str) -> InputError:
    """Return the error of a root that does not have the layout."""
    return InputError(
        f"{root} is not laid out as {kind}: expected {root}/{expected}; name the folder that holds it"
    )


def pluralize(number: int, word: str) -> str:
    """Return "1 frame", "2 frames"."""
    return f"{number} {word}{'s' * (number != 1)}"


def abbreviate(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _points(label: NDArray[np.uint8], blobs: bool) -> Fixations:
    """Return (N, 2) rows and columns of what is brighter than half the maximum: JPEG leaves a haze."""
    mask = label > label.max() / 2
    if not blobs:
        return np.argwhere(mask).astype(np.int64)
    _, _, _, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    points: Fixations = np.rint(centres[1:, ::-1]).astype(np.int64)
    return points
