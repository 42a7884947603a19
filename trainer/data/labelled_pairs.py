"""Training samples of a data set on disk: labelled frames, their neighbours and teachers' maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edge.core.errors import InputError
from edge.preprocessing.transform import Preprocessing
from trainer.data.teacher_maps import TeacherKind, resize_map
from trainer.datasets.clips import DatasetClip, PrecomputedMaps, SaliencyDataset
from trainer.models.student import SkdSettings

Map = NDArray[np.float32]
MAX_UNREADABLE_SAMPLES = 100
"""Consecutive samples that may be unreadable before training ends."""


class LabelledPairs(Dataset[dict[str, Tensor]]):
    """Data set of labelled frames with their neighbours; samples have the keys of `PairSample`.

    At the end of a clip a frame is its own neighbour. A sample that turns out to be unreadable, or whose
    density is empty, is replaced by the next one.

    Args:
        dataset: Data set to train on.
        student: Student to train.
        large: Width and height of the teachers' frames; None leaves these frames out.
        soft: Maps by each teacher. If given, samples also have `soft_spatial` and `soft_temporal`
            (1, R, R) in [0, 1], and frames that lack a map are left out.
        mirror: Whether each frame is also used mirrored, as a second sample.
        fps: Frame rate of the clips. A student whose lag is in seconds needs it.

    Raises:
        InputError: No frame has all that a sample needs; on access, no frame can be read.

    Attributes:
        frames_without_density: Frames left out because they have no density.
        frames_without_map: Frames left out because they lack a teacher's map.
    """

    def __init__(
        self,
        dataset: SaliencyDataset,
        student: SkdSettings,
        large: tuple[int, int] | None = None,
        soft: Mapping[TeacherKind, PrecomputedMaps] | None = None,
        mirror: bool = False,
        fps: float = 30.0,
    ) -> None:
        self._dataset, self._pair, self._soft, self._mirror = dataset, student.pair, dict(soft or {}), mirror
        self._lag_frames = max(1, round(student.lag_s * fps))
        self._student = student.preprocessing()
        self._teacher = Preprocessing(*large) if large else None
        self.frames_without_density = self.frames_without_map = 0
        clip_frames: list[tuple[int, int]] = []
        for clip_index, clip in enumerate(dataset.clips):
            labelled = clip.labelled_frames("density")
            self.frames_without_density += len(clip) - len(labelled)
            usable = set(labelled).intersection(*(m.frames(clip.name).tolist() for m in self._soft.values()))
            self.frames_without_map += len(labelled) - len(usable)
            clip_frames += [(clip_index, index) for index in sorted(usable)]
        if not clip_frames:
            raise InputError(
                f"no frame of {dataset.kind} at {dataset.root} can be trained on: "
                f"{self.frames_without_density} without density, {self.frames_without_map} without a "
                f"teacher's map; expected {dataset.describe_label_places()}, or maps of them as data.maps; "
                "soft maps have the names of the clips and frames of this data set"
            )
        self._clip_frames = np.array(clip_frames, np.int32)

    def __len__(self) -> int:
        return len(self._clip_frames) * (2 if self._mirror else 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        mirrored, first = divmod(index, len(self._clip_frames))
        for step in range(min(MAX_UNREADABLE_SAMPLES, len(self._clip_frames))):
            clip_index, frame = map(int, self._clip_frames[(first + step) % len(self._clip_frames)])
            sample = self._sample(self._dataset.clips[clip_index], frame)
            if sample is not None:
                return {
                    name: torch.from_numpy(np.ascontiguousarray(value[..., ::-1] if mirrored else value))
                    for name, value in sample.items()
                }
        raise InputError(
            f"{self._dataset.kind} at {self._dataset.root}: many frames in a row cannot be read, the last "
            f"is frame {frame} of {self._dataset.clips[clip_index].name}: "
            f"{'; '.join(self._dataset.describe_faults()[:1])}"
        )

    def _sample(self, clip: DatasetClip, index: int) -> dict[str, NDArray[Any]] | None:
        other_index = index + 1 if self._pair == "next" else max(0, index - self._lag_frames)
        start, stop = max(0, min(index, other_index)), max(index, other_index) + 1
        frames = {frame.index: frame for frame in clip.frames(start, stop)}
        frame = frames.get(index)
        if frame is None or frame.density is None or not frame.density.any():
            return None
        image = frame.image
        other = self._student.align(frames.get(other_index, frame).image, image)
        density = self._resize(frame.density)
        sample = {
            "frame": self._student(image)[0],
            "other": self._student(other)[0],
            "density": density / density.sum(),
        }
        if self._teacher is not None:
            sample |= {"large_frame": self._teacher(image)[0], "large_other": self._teacher(other)[0]}
        for teacher, maps in self._soft.items():
            sample[f"soft_{teacher}"] = self._resize(maps.map(clip.name, index))
        return sample

    def _resize(self, saliency: Map) -> Map:
        """Return a map as (1, R, R)."""
        return resize_map(saliency, self._student.width, self._student.height)[None]

    def summary(self) -> str:
        """Return one line that says what is trained on and how many frames are left out."""
        dataset = self._dataset
        split = f", {dataset.split}" if dataset.split else ""
        left_out = [f"{self.frames_without_density} without density"]
        if self._soft:
            left_out.append(f"{self.frames_without_map} without map")
        return (
            f"{dataset.kind} at {dataset.root}{split}: {len(self._clip_frames)} frames, "
            f"left out {', '.join(left_out)}"
        )
