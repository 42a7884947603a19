"""Labelling: a model's maps for a data set's clips, shard by shard, by any number of processes."""

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
from trainer.data.map_shards import Plan, Shard, keep_plan, shard_path
from trainer.datasets.clips import Clip, Dataset
from trainer.inference.predictors import Predictor


def clips_sha256(dataset: Dataset) -> str:
    """Return the SHA-256 of the clips' names in order: the same tree gives the same shards.

    Raises:
        InputError: two clips have one name.
    """
    twice = [name for name, count in Counter(clip.name for clip in dataset.clips).items() if count > 1]
    if twice:
        raise InputError(
            f"{dataset.kind} at {dataset.root} has two clips named {twice[0]}; maps are found by name: "
            "label one split at a time"
        )
    return hashlib.sha256("\n".join(clip.name for clip in dataset.clips).encode()).hexdigest()


def label(
    dataset: Dataset,
    predictors: Mapping[str, Predictor],
    plan: Plan,
    folder: Path,
    part: int = 0,
    parts: int = 1,
    on_clip: Callable[[int], None] = lambda clips: None,
) -> int:
    """Write the shards of part `part` of `parts` that are not there yet; return how many.

    Shard i belongs to part i % `parts`: no two processes write the same. What cannot be read of a clip
    is named in its shard, and the rest goes on. `on_clip` is told how many clips more are done.

    Raises:
        InputError: the folder is another plan's, a map is not finite, or as a predictor does.
    """
    keep_plan(folder, plan)
    written = 0
    for number in range(part, plan.shards, parts):
        path = shard_path(folder, number)
        clips = dataset.clips[number * plan.clips_per_shard :][: plan.clips_per_shard]
        if path.is_file():
            on_clip(len(clips))
            continue
        for left in folder.glob(f".{path.stem}.*"):  # by a kill; this process alone writes this shard
            left.unlink(missing_ok=True)
        started = time.perf_counter()
        shard = Shard(plan.width, plan.height)
        for clip in clips:
            known = len(dataset.faults)
            _label(clip, predictors, plan, shard, dataset)
            new = dataset.named_faults()[known:] if len(dataset.faults) > known else []
            shard.end_clip(clip.name, new)
            on_clip(1)
        shard.write(path, time.perf_counter() - started)
        written += 1
    return written


def _label(
    clip: Clip, predictors: Mapping[str, Predictor], plan: Plan, shard: Shard, dataset: Dataset
) -> None:
    streams = itertools.tee(clip.frames(0, plan.max_frames), len(predictors))
    each = (p.maps(clip.name, s, plan.stride) for p, s in zip(predictors.values(), streams, strict=True))
    try:
        for found in zip(*each, strict=True):
            index = found[0][0].index
            if not all(np.isfinite(saliency).all() for _, saliency in found):
                raise InputError(f"a map of {clip.name}, frame {index}, is not finite: the model is broken")
            shard.add(index, [saliency for _, saliency in found])
    except cv2.error as error:
        dataset.faults[dataset.root / clip.name] = f"not readable ({str(error).splitlines()[0]})"
