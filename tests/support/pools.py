"""Small pools of simulated scenes."""

from __future__ import annotations

import numpy as np

from trainer.data.scene_pool import PoolSettings, ScenePool, Shot, simulation_digest

SMALL_POOL = PoolSettings(1, 96, 64, 16, 10.0, simulation_digest())
"""Settings of a pool of small frames; one shard of it is rendered in about a second."""


def all_clips(pool: ScenePool, twins: bool = False) -> list[Shot]:
    """Return the clips of a pool with few of them."""
    rng = np.random.default_rng(0)
    clips = {shot.index.scene: shot for shot in (pool.draw(rng, float(twins), clip=True) for _ in range(60))}
    return [clips[scene] for scene in sorted(clips)]
