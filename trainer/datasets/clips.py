"""Clips, frames and labels of saliency data sets; files are read on demand."""

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
from edge.sources import image_folder
from edge.sources.image_folder import list_image_files, natural_sort_key
from trainer.datasets.matlab_maps import list_mat_files, read_mat_file

Density = NDArray[np.float32]
Fixations = NDArray[np.int64]
Box = tuple[float, float, float, float]
UNLABELLED_KINDS = ("videos", "bags")
"""Layouts that have no labels."""
LabelKind = Literal["density", "fixations", "box"]
Split = Literal["train", "val", "test"]
Faults = dict[Path, str]
"""Reason by file for the files that cannot be used. Filled while frames are read."""


@dataclass(frozen=True)
class LabelledFrame:
    """A frame and its labels; a label is None where it is unknown.

    Attributes:
        index: Number of the frame in its clip, from 0.
        image: (H, W, 3), uint8, BGR.
        density: Fixation density (H, W) in [0, 1], as stored: it does not sum to one.
        fixations: (N, 2), row and column in pixels.
        box: x, y, w, h in pixels of the one tracked target.
    """

    index: int
    image: Image
    density: Density | None
    fixations: Fixations | None
    box: Box | None


class ImageSequence(Protocol):
    """Images of a clip, in a folder or in a video."""

    def __len__(self) -> int:
        """Return the number of images, or the announced number."""

    def key(self, index: int) -> str:
        """Return the stem of the label files of a frame."""

    def read(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image (H, W, 3), BGR. Unreadable images are skipped and recorded."""


class PrecomputedMaps(Protocol):
    """Saliency maps that a model has predicted for clips."""

    def frames(self, clip: str) -> NDArray[np.int32]:
        """Return the indices of the clip's frames that have maps."""

    def map(self, clip: str, frame: int) -> Density:
        """Return a map (h, w) in [0, 1]."""


@dataclass(frozen=True)
class LabelSources:
    """Locations of the labels of a clip.

    Attributes:
        density: Folder of the layout for density images; it may be absent. None if the layout has none.
        fixations: Folder of the layout for fixation images, likewise.
        mat_fixations: Folder of .mat files, used for frames without a fixation image.
        fixations_are_blobs: A fixation is drawn as a small blob instead of one pixel.
        boxes: (N, 4): x, y, w, h in pixels per frame, NaN where the target is not visible.
    """

    density: Path | None = None
    fixations: Path | None = None
    mat_fixations: Path | None = None
    fixations_are_blobs: bool = False
    boxes: NDArray[np.float64] | None = None


class DatasetClip:
    """A named sequence of frames with labels.

    Args:
        name: Unique in its data set.
        split: Part of the data set, None where the layout has no splits.
        images: Images of the clip.
        faults: Receives the files that cannot be used.
        labels: Locations of the labels.
    """

    def __init__(
        self,
        name: str,
        split: Split | None,
        images: ImageSequence,
        faults: Faults,
        labels: LabelSources = LabelSources(),
    ) -> None:
        self.name = name
        self.split = split
        self._images = images
        self._faults = faults
        self._labels = labels
        self._maps: PrecomputedMaps | None = None

    def with_maps(self, maps: PrecomputedMaps) -> DatasetClip:
        """Return a copy of the clip that uses maps where a frame has no density."""
        clip = copy(self)
        clip.__dict__.pop("_mapped_frames", None)
        clip._maps = maps
        return clip

    def __len__(self) -> int:
        return len(self._images)

    @property
    def label_folders(self) -> dict[LabelKind, Path]:
        """Folder for each kind of label that the layout keeps in files; it may be absent."""
        folders: dict[LabelKind, Path | None] = {
            "density": self._labels.density,
            "fixations": self._labels.fixations,
        }
        return {kind: folder for kind, folder in folders.items() if folder is not None}

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[LabelledFrame]:
        """Yield the frames from `start` to before `stop`. Unreadable frames are skipped and recorded."""
        for index, image in self.images(start, len(self) if stop is None else stop):
            fixations = self._read_label("fixations", index, image.shape[:2])
            yield LabelledFrame(
                index,
                image,
                self.density(index, image),
                None if fixations is None else _fixation_points(fixations, self._labels.fixations_are_blobs),
                self.box(index),
            )

    def images(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """Yield index and image from `start` to before `stop`. Unreadable images are skipped and recorded."""
        yield from self._images.read(start, min(len(self), stop))

    def density(self, index: int, image: Image) -> Density | None:
        """Return the density of the frame `image` at an index, or None if it has none."""
        label = self._read_label("density", index, image.shape[:2])
        if label is not None:
            return np.asarray(label / np.float32(255), np.float32)
        if self._maps is None or index not in self._mapped_frames:
            return None
        try:
            density = self._maps.map(self.name, index)
        except InputError as error:
            self._faults[Path(self.name)] = str(error)
            return None
        return np.asarray(cv2.resize(density, (image.shape[1], image.shape[0])), np.float32)

    def nearest_labelled(self, index: int) -> int:
        """Return the nearest frame with a density or a map; the index itself if the clip has no maps."""
        candidates = self.labelled_frames("density") if self._maps else []
        return min(candidates, key=lambda frame: abs(frame - index), default=index)

    def relative_fixations(self, index: int) -> NDArray[np.float64]:
        """Return the fixations (N, 2) as fractions of height and width, without reading the image."""
        label = self._read_label("fixations", index, None)
        if label is None:
            return np.empty((0, 2))
        return (_fixation_points(label, self._labels.fixations_are_blobs) + 0.5) / label.shape

    @property
    def label_kinds(self) -> frozenset[LabelKind]:
        """Return the kinds of labels that at least one frame may have."""
        kinds: set[LabelKind] = {kind for kind, files in self._label_files.items() if files}
        if len(self._mapped_frames):
            kinds.add("density")
        if self._labels.boxes is not None:
            kinds.add("box")
        return frozenset(kinds)

    def labelled_frames(self, kind: LabelKind) -> list[int]:
        """Return the indices of the frames that have a density or fixations, without opening files."""
        files = self._label_files.get(kind)
        labelled = (
            {index for index in range(len(self)) if self._images.key(index) in files} if files else set()
        )
        return sorted(labelled.union(self._mapped_frames.tolist() if kind == "density" else ()))

    def missing_labels(self) -> dict[LabelKind, int]:
        """Return the number of frames without a label, for each kind that the layout has and frames lack."""
        counts: dict[LabelKind, int] = {}
        for kind, files in self._label_files.items():
            if files is not None:
                counts[kind] = len(self) - len(self.labelled_frames(kind))
        if self._labels.boxes is not None:
            counts["box"] = sum(self.box(index) is None for index in range(len(self)))
        return {kind: count for kind, count in counts.items() if count}

    @cached_property
    def _mapped_frames(self) -> NDArray[np.int32]:
        """Indices of the frames with maps. Maps of a longer version of the clip can exceed it."""
        frames = self._maps.frames(self.name) if self._maps else np.empty(0, np.int32)
        return frames[frames < len(self)] if len(frames) else frames

    @cached_property
    def _label_files(self) -> dict[LabelKind, dict[str, Path] | None]:
        """Label files by stem for each kind, None where the layout has no folder for it."""
        density, fixations = (
            None if folder is None else list_images(folder)
            for folder in (self._labels.density, self._labels.fixations)
        )
        if fixations is not None and self._labels.mat_fixations is not None:
            fixations = list_mat_files(self._labels.mat_fixations) | fixations
        return {"density": density, "fixations": fixations}

    def _read_label(
        self, kind: LabelKind, index: int, size: tuple[int, ...] | None
    ) -> NDArray[np.uint8] | None:
        path = (self._label_files[kind] or {}).get(self._images.key(index))
        if path is None:
            return None
        try:
            label = (
                read_mat_file(path)
                if path.suffix.lower() == ".mat"
                else read_image(path, cv2.IMREAD_GRAYSCALE)
            )
        except ValueError as error:
            self._faults[path] = str(error)
            return None
        if label is None:
            self._faults[path] = "not readable as an image"
        elif size is not None and label.shape != size:
            self._faults[path] = (
                f"{label.shape[1]}x{label.shape[0]} pixels, but its frame is {size[1]}x{size[0]}"
            )
            label = None
        return label

    def box(self, index: int) -> Box | None:
        """Return the box of the tracked target in a frame; None where it is unknown."""
        boxes = self._labels.boxes
        if boxes is None or index >= len(boxes) or not np.isfinite(boxes[index]).all():
            return None
        x, y, w, h = (float(value) for value in boxes[index])
        return x, y, w, h


@dataclass(frozen=True)
class SaliencyDataset:
    """Clips of a data set.

    Attributes:
        kind: Name of the layout.
        root: Folder of the data set.
        split: Part of the data set, None for all.
        clips: Clips of that part.
        faults: Reason by file for the files that cannot be used. Grows while frames are read.
    """

    kind: str
    root: Path
    split: str | None
    clips: Sequence[DatasetClip]
    faults: Faults

    def with_maps(self, maps: PrecomputedMaps) -> SaliencyDataset:
        """Return the clips with maps or densities; maps are used where a frame has no density.

        Raises:
            InputError: No clip has a map.
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
        """Return the number of frames without a label by clip, for each kind of label that frames lack."""
        missing: dict[LabelKind, dict[str, int]] = {}
        for clip in self.clips:
            for kind, count in clip.missing_labels().items():
                counts = missing.setdefault(kind, {})
                counts[clip.name] = counts.get(clip.name, 0) + count
        return dict(missing)

    def describe_faults(self) -> list[str]:
        """Return the files that could not be used so far, relative to the root, with the reasons."""
        return [
            f"{path.relative_to(self.root) if path.is_relative_to(self.root) else path}: {reason}"
            for path, reason in self.faults.items()
        ]

    def describe_label_places(self) -> str:
        """Return where the labels of a clip belong, for messages; the first clip is the example."""
        places = [f"{folder} ({kind})" for kind, folder in self.clips[0].label_folders.items()]
        if places:
            return f"labels named as the frames, for example in {' or '.join(places)}"
        if self.kind == "boxes":
            return "lines x,y,w,h with a box in boxes.txt; aerogaze annotate draws them"
        return f"a data set with labels: the layout {self.kind} has none"

    def summary(self) -> str:
        """Return a text of a few lines: number of clips and frames, missing labels, files at fault."""
        frames = sum(map(len, self.clips))
        lines = [
            f"{self.kind} at {self.root}: {pluralize(len(self.clips), 'clip')}, {pluralize(frames, 'frame')}"
        ]
        for kind, counts in self.missing_labels().items():
            clips = f"{pluralize(len(counts), 'clip')}: {abbreviate(list(counts))}"
            lines.append(f"no {kind} for {pluralize(sum(counts.values()), 'frame')} of {clips}")
        if self.faults:
            count = pluralize(len(self.faults), "file")
            lines.append(f"{count} at fault: {abbreviate(self.describe_faults())}")
        return "\n".join(lines)


def list_images(folder: Path, faults: Faults | None = None) -> dict[str, Path]:
    """Return the images of a folder by stem, sorted by number; empty if there is no folder.

    Args:
        folder: The folder.
        faults: Receives the pictures that cannot be used, such as HEIC files and dead links.
    """
    if not folder.is_dir():
        return {}
    paths, skipped = list_image_files(folder)
    if faults is not None:
        faults.update(skipped)
    return {path.stem: path for path in paths}


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by number; empty if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."), key=natural_sort_key)


def read_image(path: Path, mode: int) -> NDArray[np.uint8] | None:
    """Return an image in OpenCV's read `mode`, or None if it cannot be read."""
    try:
        return image_folder.read_image(path, mode)[0]
    except InputError:
        return None


def layout_error(kind: str, root: Path, expected: str) -> InputError:
    """Return the error for a root that does not have the layout of its kind."""
    return InputError(
        f"{root} is not laid out as {kind}: expected {root}/{expected}; name the folder that contains it"
    )


def pluralize(number: int, word: str) -> str:
    """Return "1 frame" or "2 frames"."""
    return f"{number} {word}{'s' * (number != 1)}"


def abbreviate(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names, and the number of the others."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _fixation_points(label: NDArray[np.uint8], are_blobs: bool) -> Fixations:
    """Return rows and columns (N, 2) of the fixations in a label image (H, W).

    Only pixels above half of the maximum count: JPEG compression spreads faint values around them.
    """
    mask = label > label.max() / 2
    if not are_blobs:
        return np.argwhere(mask).astype(np.int64)
    _, _, _, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    points: Fixations = np.rint(centres[1:, ::-1]).astype(np.int64)
    return points
