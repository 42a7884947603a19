"""Pseudo-labelling: writes the maps of a model for a data set, in shards, by any number of processes."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import InputError
from trainer.data.map_shards import LabellingPlan, ShardWriter, shard_path, write_or_check_plan
from trainer.datasets.clips import DatasetClip, SaliencyDataset
from trainer.inference.predictor import Predictor


def clips_sha256(dataset: SaliencyDataset) -> str:
    """Return the SHA-256 of the clips' names in order, which identifies the contents of the shards.

    Raises:
        InputError: Two clips have the same name.
    """
    counts = Counter(clip.name for clip in dataset.clips)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise InputError(
            f"{dataset.kind} at {dataset.root} has two clips named {repeated[0]}; expected unique names, "
            "because maps are found by name: label one split at a time"
        )
    return hashlib.sha256("\n".join(clip.name for clip in dataset.clips).encode()).hexdigest()


def write_shards(
    dataset: SaliencyDataset,
    predictors: Mapping[str, Predictor],
    plan: LabellingPlan,
    folder: Path,
    part: int = 0,
    parts: int = 1,
    on_clip: Callable[[int], None] = lambda clips: None,
) -> int:
    """Write the missing shards of one share of the work.

    Shard i belongs to share i % `parts`, so no two processes write the same file. What cannot be read of
    a clip is recorded in its shard; labelling goes on with the next clip.

    Args:
        dataset: Clips to label.
        predictors: Sources of the maps, by the names of the plan's maps.
        plan: What the folder holds.
        folder: Folder of the shards.
        part: Index of the share.
        parts: Number of shares.
        on_clip: Called with the number of clips that were finished since the last call.

    Returns:
        The number of shards written.

    Raises:
        InputError: The folder was started with another plan, a map is not finite, or as a predictor does.
    """
    write_or_check_plan(folder, plan)
    written = 0
    for number in range(part, plan.shards, parts):
        path = shard_path(folder, number)
        clips = dataset.clips[number * plan.clips_per_shard :][: plan.clips_per_shard]
        if path.is_file():
            on_clip(len(clips))
            continue
        # Leftovers of a killed process. Only this process writes this shard, so nobody is using them.
        for leftover in folder.glob(f".{path.stem}.*"):
            leftover.unlink(missing_ok=True)
        started = time.perf_counter()
        shard = ShardWriter(plan.width, plan.height)
        for clip in clips:
            faults_before = len(dataset.faults)
            _label_clip(clip, predictors, plan, shard, dataset)
            has_new = len(dataset.faults) > faults_before
            shard.end_clip(clip.name, dataset.describe_faults()[faults_before:] if has_new else [])
            on_clip(1)
        shard.write(path, time.perf_counter() - started)
        written += 1
    return written


def _label_clip(
    clip: DatasetClip,
    predictors: Mapping[str, Predictor],
    plan: LabellingPlan,
    shard: ShardWriter,
    dataset: SaliencyDataset,
) -> None:
    streams = itertools.tee(clip.frames(0, plan.max_frames), len(predictors))
    predictions = (
        predictor.predict(clip.name, frames, plan.stride)
        for predictor, frames in zip(predictors.values(), streams, strict=True)
    )
    try:
        for labelled_maps in zip(*predictions, strict=True):
            index = labelled_maps[0][0].index
            if not all(np.isfinite(saliency).all() for _, saliency in labelled_maps):
                raise InputError(
                    f"a map of {clip.name}, frame {index}, is not finite; expected finite values: "
                    "the model is broken"
                )
            shard.add(index, [saliency for _, saliency in labelled_maps])
    except cv2.error as error:
        dataset.faults[dataset.root / clip.name] = f"not readable ({str(error).splitlines()[0]})"
