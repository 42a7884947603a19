"""Accuracy of a candidate against PyTorch's fp32 maps and against recorded fixations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Tensor
from edge.core.guarded_files import read_arrays
from edge.inference.interface.runner import Runner
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps, runtime_form
from edge.metrics.saliency import cc, kld, nss
from edge.profiler.measurement.candidate import Candidate
from edge.release.release import Release


class FixationTruth:
    """Frames of one clip with the fixations of its viewers, read from an npz file.

    Attributes:
        frames: Frames (N, H, W, 3), uint8 BGR.
        fixations: Fixations (M, 3), integers: frame, row, column.

    Raises:
        InputError: The file has no `frames` and `fixations` of these shapes.
    """

    def __init__(self, path: Path) -> None:
        expected = "an npz with frames (N, H, W, 3), uint8 BGR, and fixations (M, 3) of frame, row, column"
        arrays = read_arrays(path, ("frames", "fixations"), expected)
        self.frames, self.fixations = arrays["frames"], arrays["fixations"]
        shape, points = self.frames.shape, self.fixations
        is_valid = len(shape) == 4 and shape[3] == 3 and self.frames.dtype == np.uint8
        is_valid &= points.ndim == 2 and points.shape[1] == 3 and np.issubdtype(points.dtype, np.integer)
        if not is_valid or not len(points) or (points < 0).any() or (points >= shape[:3]).any():
            raise InputError(
                f"{path} holds frames {self.frames.dtype}{shape} and fixations {points.dtype}{points.shape}; "
                "expected uint8 (N, H, W, 3) and integers (M, 3) of frame, row, column inside them"
            )

    def nss(self, maps: Tensor) -> float:
        """Return the mean NSS of the maps (N, h, w) of frames that have fixations."""
        scale = np.array(maps.shape[1:]) / self.frames.shape[1:3]
        scores = []
        for index in np.unique(self.fixations[:, 0]):
            points = self.fixations[self.fixations[:, 0] == index, 1:]
            scores.append(nss(maps[index], ((points + 0.5) * scale).astype(np.int64)))
        return float(np.mean(scores))


def measure_accuracy(
    release: Release, candidate: Candidate, truth: FixationTruth | None
) -> dict[str, float | None]:
    """Compare the candidate's maps with the golden maps of the release.

    The golden frames are run in their order, as in flight. A graph in pair form gets pairs of them.

    Returns:
        The mean and the least CC, the mean KLD, and the mean NSS (None without `truth`).
    """
    frames, golden_maps = release.load_golden()
    maps = _run_frames(release, candidate, frames)
    scores = [cc(actual, golden) for actual, golden in zip(maps, golden_maps, strict=True)]
    divergences = [kld(actual, golden) for actual, golden in zip(maps, golden_maps, strict=True)]
    return {
        "cc": float(np.mean(scores)),
        "least_cc": float(min(scores)),
        "kld": float(np.mean(divergences)),
        "nss": None if truth is None else truth.nss(_run_frames(release, candidate, truth.frames)),
    }


def _run_frames(release: Release, candidate: Candidate, frames: NDArray[np.uint8]) -> Tensor:
    runner = candidate.open()
    try:
        if candidate.form == runtime_form(release) and candidate.batch == 1:
            return compute_clip_maps(SaliencyModel.from_runner(release, candidate.precision, runner), frames)
        return _run_pairs(release, candidate, runner, frames)
    finally:
        runner.close()


def _run_pairs(release: Release, candidate: Candidate, runner: Runner, frames: NDArray[np.uint8]) -> Tensor:
    """Return the map of each frame, paired with its neighbour.

    The neighbour is the previous frame, or the next one where the student looks ahead.
    """
    copies = candidate.batch if candidate.static else 1
    prepared: list[GraphInput] = [np.concatenate([release.prepare(frame)] * copies) for frame in frames]
    names = release.input_names("pair")
    maps = []
    for index, frame in enumerate(prepared):
        neighbour = min(len(prepared) - 1, index + 1) if release.delay_frames else max(0, index - 1)
        outputs = runner.infer(dict(zip(names, (frame, prepared[neighbour]), strict=True)))
        maps.append(outputs[release.output][0, 0].copy())
    return np.stack(maps)
