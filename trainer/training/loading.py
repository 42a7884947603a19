"""Loading of training samples: shares of processes, continuation after a restart, workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.data.workers import prepare_worker, worker_context
from trainer.recipes.loader import Recipe, StageTable
from trainer.training.distributed import ProcessGroup

Samples = Dataset[dict[str, Tensor]]
"""Samples by their index; the same index gives the same sample."""


def make_loader(
    samples: Samples, recipe: Recipe, table: StageTable, group: ProcessGroup, step: int
) -> DataLoader[dict[str, Tensor]]:
    """Return the loader of this process's share of each batch.

    Args:
        samples: Samples of the stage.
        recipe: Recipe with seed and number of workers.
        table: Table of the stage, with the batch size of all processes together.
        group: Processes that train together.
        step: Step from which training continues.
    """
    start = step * table.batch
    return DataLoader(
        samples,
        batch_size=table.batch // group.world_size,
        sampler=_ResumableSampler(samples, recipe.seed, group, start),
        num_workers=recipe.workers,
        multiprocessing_context=worker_context() if recipe.workers else None,
        persistent_workers=recipe.workers > 0,
        worker_init_fn=prepare_worker,
        pin_memory=torch.cuda.is_available(),
    )


class _ResumableSampler(Sampler[int]):
    """Endless sampler that shuffles each epoch, yields this process's share and can start anywhere."""

    def __init__(self, samples: Any, seed: int, group: ProcessGroup, start: int) -> None:
        self._length, self._seed, self._group, self._start = len(samples), seed, group, start

    def __iter__(self) -> Iterator[int]:
        epoch, offset = divmod(self._start, self._length)
        position = self._start
        while True:
            order = torch.randperm(
                self._length, generator=torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            )
            for index in order[offset:].tolist():
                if position % self._group.world_size == self._group.rank:
                    yield index
                position += 1
            epoch, offset = epoch + 1, 0
