"""Soft labels of a pool: the maps of both teachers for its labelled frames, computed once and kept on disk.

The stages after the teachers draw a frame many times, with random crops, colours and noise. If the teachers
computed its map each time, a step would take ten times as long. A folder of soft labels has one file for
each shard with targets, `shard-000000.npy` and so on: float16 (N, 2, H, W), for the labelled frames of the
shard in their order, first the spatial teacher's map, then the temporal teacher's, each with maximum 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edge.core.atomic_files import atomic_file, translate_write_errors
from edge.preprocessing.transform import Preprocessing
from trainer.data.mapped_arrays import MAX_OPEN_FILES, cached_per_file
from trainer.data.pool_rendering import hold_folder
from trainer.data.scene_pool import TICKS_PER_S, ScenePool, Shot
from trainer.data.workers import prepare_worker, worker_context
from trainer.models.student import SkdSettings

Maps = NDArray[np.float32]
TeacherMaps = Callable[[Tensor, Tensor], Tensor]
"""Function from large frames and their neighbours (N, 3, H, W) to both teachers' maps (N, 2, h, w)."""
FRAMES_PER_PASS = 16
"""Frames that the teachers see at once."""
NOMINAL_LAG_S = 1 / 20
"""Time to the neighbour for a student that is paired with the frame before, whatever the frame rate is."""


class SoftLabels:
    """Random access to the teachers' maps of a pool. It can be pickled, for other processes.

    Args:
        folder: Folder of the soft labels.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def maps(self, shot: Shot, position: int) -> Maps:
        """Return both teachers' maps (2, H, W), float32, of the labelled frame at a position in the shot."""
        maps = _map_file(_label_path(self._folder, shot.shard))
        row = shot.first_label + shot.index.labelled.index(position)
        return np.asarray(maps[row], np.float32)


def label_pool(
    pool: ScenePool,
    student: SkdSettings,
    teachers: TeacherMaps,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 1,
) -> SoftLabels:
    """Compute the soft labels that are missing in a folder.

    Args:
        pool: Pool to label.
        student: Student that will learn from the labels. Its pairing and alignment apply to the teachers'
            large frames, too.
        teachers: Maps of the teachers.
        folder: Folder of the labels of these teachers and this pool; it is made if it is missing.
        on_progress: Function that is called before the first shard and after each, with the number of shards
            that are done and of all.
        workers: Processes that read frames; 0 reads them in this process.

    Raises:
        InputError: The folder cannot be written.
    """
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder, "writes soft labels"):
        missing = [number for number in pool.shards if not _label_path(folder, number).is_file()]
        if missing:
            _label_shards(_LargeFrames(pool, student, missing), teachers, folder, on_progress, workers)
    return SoftLabels(folder)


def _label_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:06d}.npy"


@cached_per_file(MAX_OPEN_FILES)
def _map_file(path: Path) -> NDArray[np.float16]:
    maps: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return maps


def _label_shards(
    frames: _LargeFrames,
    teachers: TeacherMaps,
    folder: Path,
    on_progress: Callable[[int, int], None],
    workers: int,
) -> None:
    total = len(frames)
    on_progress(0, total)
    loader = DataLoader(
        frames,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=worker_context() if workers else None,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),  # otherwise a training would depend on whether it had to label
    )
    for done, (number, images) in enumerate(loader, 1):
        parts = [teachers(*part.unbind(dim=1)).half().cpu() for part in images.split(FRAMES_PER_PASS)]
        path = _label_path(folder, number)
        with atomic_file(path) as pending, translate_write_errors(path), pending.open("wb") as file:
            np.save(file, torch.cat(parts).numpy())
        on_progress(done, total)


class _LargeFrames(Dataset[tuple[int, Tensor]]):
    """Shards as their numbers and the teachers' inputs (N, 2, 3, H, W): labelled frames, and neighbours."""

    def __init__(self, pool: ScenePool, student: SkdSettings, numbers: Sequence[int]) -> None:
        self._pool, self._numbers = pool, numbers
        self._student, self._pair = student.preprocessing(), student.pair
        self._teacher = Preprocessing(pool.settings.width, pool.settings.height)
        self._lag_s = student.lag_s or NOMINAL_LAG_S

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        cv2.setNumThreads(1)
        number = self._numbers[index]
        pairs = [
            self._inputs(shot, position)
            for shot in self._pool.shots(number)
            for position in shot.index.labelled
        ]
        return number, torch.from_numpy(np.stack(pairs))

    def _inputs(self, shot: Shot, position: int) -> Maps:
        """Return a frame and its neighbour as the teachers see them, (2, 3, H, W)."""
        neighbour = self._neighbour(shot, position)
        frame, other = shot.frames[position], shot.frames[neighbour]
        if self._pair == "previous":
            other = self._student.align(other, frame)
        return np.concatenate([self._teacher(frame), self._teacher(other)])

    def _neighbour(self, shot: Shot, position: int) -> int:
        """Return the frame at about the nominal lag; at the end of a clip, one on the other side in time."""
        ticks = np.array(shot.index.ticks)
        lags_s = (ticks[position] - ticks) / TICKS_PER_S * (1 if self._pair == "previous" else -1)
        usable = lags_s > 0 if (lags_s > 0).any() else lags_s < 0
        return int(np.where(usable, np.abs(np.abs(lags_s) - self._lag_s), np.inf).argmin())
