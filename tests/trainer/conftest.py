"""Fixtures of the trainer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.pools import SMALL_POOL
from trainer.data.pool_rendering import open_pool
from trainer.data.scene_pool import ScenePool


@pytest.fixture(scope="session")
def small_pool() -> ScenePool:
    """Return the first shard of the small pool: six scenes without twins, two of them with clips."""
    return open_pool(SMALL_POOL, 1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread: sums then have the same order, and so the same rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
