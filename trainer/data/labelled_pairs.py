"""Training samples from a data set on disk: labelled frames, their neighbours, and teachers' maps."""

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
from trainer.data.teacher_maps import TeacherKind
from trainer.datasets.clips import DatasetClip, PrecomputedMaps
from trainer.datasets.clips import SaliencyDataset as Clips
from trainer.models.student import SkdSettings

Map = NDArray[np.float32]
MAX_UNREADABLE_SAMPLES = 100
"""Samples in a row that cannot be read before the training ends."""


class LabelledPairs(Dataset[dict[str, Tensor]]):
    """A sample for each labelled frame, of `trainer.data.synthetic_pairs.PairSample`'s fields.

    `large`: (width, height) of the teachers' frames, None for none. `soft`: maps by which teacher; a
    sample then has `soft_spatial` and `soft_temporal` (1, R, R) in [0, 1] too, and frames without both
    are left out. With `mirror` each frame is there twice, once mirrored. At its clip's end a frame is
    its own neighbour; `fps`: the clips' frame rate, for a student that looks back by seconds. What turns
    out unreadable, or has an empty density, gives way to the next sample.

    Raises:
        InputError: no frame has all that is needed; later: nothing can be read.
    """

    def __init__(
        self,
        clips: Clips,
        student: SkdSettings,
        large: tuple[int, int] | None = None,
        soft: Mapping[TeacherKind, PrecomputedMaps] | None = None,
        mirror: bool = False,
        fps: float = 30.0,
    ) -> None:
        self._clips, self._pair, self._soft, self._mirror = clips, student.pair, dict(soft or {}), mirror
        self._lag = max(1, round(student.lag_s * fps))
        self._student = student.preprocessing()
        self._teacher = Preprocessing(*large) if large else None
        places: list[tuple[int, int]] = []
        self.frames_without_density = self.frames_without_map = 0
        for at, clip in enumerate(clips.clips):
            labelled = clip.labelled_frames("density")
            self.frames_without_density += len(clip) - len(labelled)
            chosen = set(labelled).intersection(*(m.frames(clip.name).tolist() for m in self._soft.values()))
            self.frames_without_map += len(labelled) - len(chosen)
            places += [(at, index) for index in sorted(chosen)]
        if not places:
            raise InputError(
                f"no frame of {clips.kind} at {clips.root} can be trained on: {self.frames_without_density} without "
                f"density, {self.frames_without_map} without a teacher's map; expected labels as docs/data.md says, or "
                "maps for them as data.maps, and soft maps named by the clips and frames of this data set"
            )
        self._places = np.array(places, np.int32)

    def __len__(self) -> int:
        return len(self._places) * (2 if self._mirror else 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        turned, first = divmod(index, len(self._places))
        for step in range(min(MAX_UNREADABLE_SAMPLES, len(self._places))):
            at, frame = map(int, self._places[(first + step) % len(self._places)])
            sample = self._sample(self._clips.clips[at], frame)
            if sample is not None:
                return {
                    name: torch.from_numpy(np.ascontiguousarray(value[..., ::-1] if turned else value))
                    for name, value in sample.items()
                }
        raise InputError(
            f"{self._clips.kind} at {self._clips.root}: many frames in a row cannot be read, the last is "
            f"frame {frame} of {self._clips.clips[at].name}: {'; '.join(self._clips.describe_faults()[:1])}"
        )

    def _sample(self, clip: DatasetClip, index: int) -> dict[str, NDArray[Any]] | None:
        beside = index + 1 if self._pair == "next" else max(0, index - self._lag)
        found = {f.index: f for f in clip.frames(max(0, min(index, beside)), max(index, beside) + 1)}
        frame = found.get(index)
        if frame is None or frame.density is None or not frame.density.any():
            return None
        image = frame.image
        other = self._student.align(found.get(beside, frame).image, image)
        density = self._fitted(frame.density)
        sample = {
            "frame": self._student(image)[0],
            "other": self._student(other)[0],
            "density": density / density.sum(),
        }
        if self._teacher is not None:
            sample |= {"large_frame": self._teacher(image)[0], "large_other": self._teacher(other)[0]}
        for which, maps in self._soft.items():
            sample[f"soft_{which}"] = self._fitted(maps.map(clip.name, index))
        return sample

    def _fitted(self, saliency: Map) -> Map:
        """Return a map as (1, R, R)."""
        size = (self._student.width, self._student.height)
        shrinks = saliency.shape[1] > size[0] or saliency.shape[0] > size[1]
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(saliency, size, interpolation=way), np.float32)[None]

    def summary(self) -> str:
        """Return in a line what is trained on and how many frames are left out."""
        clips = self._clips
        split = f", {clips.split}" if clips.split else ""
        left = [f"{self.frames_without_density} without density"] + [
            f"{self.frames_without_map} without map"
        ] * bool(self._soft)
        return f"{clips.kind} at {clips.root}{split}: {len(self._places)} frames, left out {', '.join(left)}"
