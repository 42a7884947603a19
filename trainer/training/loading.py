"""Loading of training samples: shares of processes, continuation after a restart, workers."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from trainer.recipes.loader import Recipe, StageTable
from trainer.training.distributed import ProcessGroup

Samples = Dataset[dict[str, Tensor]]
"""Data set of samples; an `IterableDataset` must also be `EndlessSamples`."""


class EndlessSamples(Protocol):
    """Endless data set; `share()` sets rank, world size and offset."""

    def share(self, rank: int, world_size: int, start: int) -> None:
        """Set which share of the samples this process yields.

        Args:
            rank: Index of this process.
            world_size: Number of processes.
            start: Samples that all processes together have consumed before.
        """


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
    endless = isinstance(samples, IterableDataset)
    if endless:
        samples.share(group.rank, group.world_size, start)  # type: ignore[attr-defined]
    return DataLoader(
        samples,
        batch_size=table.batch // group.world_size,
        sampler=None if endless else _ResumableSampler(samples, recipe.seed, group, start),
        num_workers=recipe.workers,
        multiprocessing_context=_worker_context() if recipe.workers else None,
        persistent_workers=recipe.workers > 0,
        worker_init_fn=_ignore_interrupts,
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


def _worker_context() -> BaseContext:
    """Return the context that starts workers from a fork server instead of as copies of this process.

    A copied OpenCV waits forever for threads that were not copied. The fork server imports what workers need
    once for all stages.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.synthetic_pairs"])
    return context


def _ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C, which a terminal sends to every process; the main process ends the workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
