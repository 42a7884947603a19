"""How near a contender's maps are to PyTorch's in fp32, and to where viewers looked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import Input, Tensor
from edge.inference.interface.runner import Runner
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps, runtime_form
from edge.metrics.saliency import cc, kld, nss
from edge.profiler.measurement.candidate import Candidate
from edge.release.manifest import Release


class FixationTruth:
    """Frames (N, H, W, 3) of one clip, uint8 BGR, and fixations (M, 3): frame, row, column.

    Raises:
        InputError: the file is no npz with `frames` and `fixations` of these shapes.
    """

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as found:
                self.frames, self.fixations = found["frames"], found["fixations"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} cannot be read ({error or 'empty'}); expected an npz with frames (N, H, W, 3), "
                "uint8 BGR, and fixations (M, 3) of frame, row, column"
            ) from None
        shape, points = self.frames.shape, self.fixations
        fits = len(shape) == 4 and shape[3] == 3 and self.frames.dtype == np.uint8
        fits = fits and points.ndim == 2 and points.shape[1] == 3 and np.issubdtype(points.dtype, np.integer)
        if not fits or not len(points) or (points < 0).any() or (points >= shape[:3]).any():
            raise InputError(
                f"{path} holds frames {self.frames.dtype}{shape} and fixations {points.dtype}{points.shape}; "
                "expected uint8 (N, H, W, 3) and integers (M, 3) of frame, row, column inside them"
            )

    def nss(self, maps: Tensor) -> float:
        """Return the mean NSS of the maps (N, h, w) of frames that have fixations."""
        scale = np.array(maps.shape[1:]) / self.frames.shape[1:3]
        scores = []
        for index in np.unique(self.fixations[:, 0]):
            places = self.fixations[self.fixations[:, 0] == index, 1:]
            scores.append(nss(maps[index], ((places + 0.5) * scale).astype(np.int64)))
        return float(np.mean(scores))


def accuracy(release: Release, contender: Candidate, truth: FixationTruth | None) -> dict[str, float | None]:
    """Return least and mean CC, mean KLD against PyTorch's fp32 golden maps, and NSS where truth is given.

    The release's frames are run in their order, as in the air. A pair form is fed its pairs.
    """
    frames, expected = release.golden()
    maps = _maps(release, contender, frames)
    found = [cc(one, other) for one, other in zip(maps, expected, strict=True)]
    return {
        "cc": float(np.mean(found)),
        "least_cc": float(min(found)),
        "kld": float(np.mean([kld(one, other) for one, other in zip(maps, expected, strict=True)])),
        "nss": None if truth is None else truth.nss(_maps(release, contender, truth.frames)),
    }


def _maps(release: Release, contender: Candidate, frames: NDArray[np.uint8]) -> Tensor:
    runner = contender.open()
    try:
        if contender.form == runtime_form(release) and contender.batch == 1:
            return compute_clip_maps(SaliencyModel.around(release, contender.precision, runner), frames)
        return _pair_maps(release, contender, runner, frames)
    finally:
        runner.close()


def _pair_maps(release: Release, contender: Candidate, runner: Runner, frames: NDArray[np.uint8]) -> Tensor:
    """A pair is a frame and its neighbour: the one before or, where the student looks ahead, after."""
    copies = contender.batch if contender.static else 1
    prepared: list[Input] = [np.concatenate([release.prepare(frame)] * copies) for frame in frames]
    names = release.inputs_of("pair")
    maps = []
    for index, frame in enumerate(prepared):
        beside = min(len(prepared) - 1, index + 1) if release.delay_frames else max(0, index - 1)
        given = runner.infer(dict(zip(names, (frame, prepared[beside]), strict=True)))
        maps.append(given[release.output][0, 0].copy())
    return np.stack(maps)
