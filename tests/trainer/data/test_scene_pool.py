"""Pool of rendered scenes: what it holds, who makes it, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.core.locks import acquire_lock
from edge.simulation.world import World
from tests.conftest import Outcome
from tests.support.pools import SMALL_POOL, all_clips
from tests.support.training import SHORT_SKD, set_options
from tests.support.waiting import wait_until
from trainer.data.gaze_model import gaze_density
from trainer.data.pool_rendering import PoolProgress, default_folder, open_pool, shard_bytes
from trainer.data.scene_pool import (
    FIRST_TRAINING_SCENE,
    SCENES_PER_SHARD,
    TICKS_PER_S,
    ScenePool,
    is_intact,
    read_index,
    shard_path,
)


@pytest.fixture
def pool_copy(small_pool: ScenePool, tmp_path: Path) -> Path:
    """Return the folder of a copy of the small pool, to be spoilt."""
    del small_pool  # makes the pool that is copied
    folder = tmp_path / "pool"
    folder.mkdir()
    for path in ("pool.json", "shard-000000.npz"):
        shutil.copy(default_folder(SMALL_POOL) / path, folder)
    return folder


def test_shots_have_the_frames_targets_and_densities_of_their_scenes(small_pool: ScenePool) -> None:
    rng = np.random.default_rng(0)
    for twins in (False, True):
        for clip in (False, True):
            shot = small_pool.draw(rng, float(twins), clip)
            index = shot.index
            assert index.twins == twins
            assert index.scene >= FIRST_TRAINING_SCENE
            world = World(index.scene, 96, 64, TICKS_PER_S, twins=twins)
            for position in index.labelled[-2:]:
                tick = index.ticks[position]
                assert (shot.frames[position] == world.frame(tick).image).all()
                stored, true = shot.targets(tick), world.targets(tick)
                assert [target.target_id for target in stored] == [target.target_id for target in true]
                density = gaze_density(shot, tick, 32, 32)
                np.testing.assert_allclose(density, gaze_density(world, tick, 32, 32), atol=2e-3)


def test_a_third_of_the_scenes_has_clips_and_a_third_twins(small_pool: ScenePool) -> None:
    shots = read_index(shard_path(default_folder(SMALL_POOL), 0))
    scenes = {shot.scene for shot in shots}
    clips = [shot for shot in shots if len(shot.ticks) == 16]
    assert scenes == {FIRST_TRAINING_SCENE * 2 + number for number in range(9)}
    assert len({shot.scene for shot in clips}) == len({shot.scene for shot in shots if shot.twins}) == 3
    assert {shot.twins for shot in clips} == {True, False}
    for shot in shots:
        gaps = np.diff(shot.ticks)
        if shot in clips:
            assert set(gaps) == {6}, "ten frames per second"
        else:
            assert 1 <= gaps[1] <= 6
            assert 12 <= gaps.sum() <= 30
    assert len(all_clips(small_pool)) == 2


def test_short_shots_are_no_clips_where_clips_are_as_short(tmp_path: Path) -> None:
    pool = open_pool(replace(SMALL_POOL, clip_frames=3), 1, tmp_path)
    shots = all_clips(pool)
    assert len(shots) == 2
    assert all(set(np.diff(shot.index.ticks)) == {6} for shot in shots), "ten frames per second"


def test_pools_of_other_seeds_share_no_scene_and_none_is_for_evaluation(tmp_path: Path) -> None:
    open_pool(replace(SMALL_POOL, seed=0), 1, tmp_path)
    open_pool(SMALL_POOL, 1)
    folders = tmp_path, default_folder(SMALL_POOL)
    first, second = ({shot.scene for shot in read_index(shard_path(folder, 0))} for folder in folders)
    assert min(first | second) >= FIRST_TRAINING_SCENE
    assert not first & second


def test_pool_grows_by_whole_shards_and_keeps_those_that_are_there(pool_copy: Path) -> None:
    leftover = pool_copy / ".shard-000001.abc.npz"  # of a killed process
    leftover.write_bytes(b"half")
    before = shard_path(pool_copy, 0).stat().st_mtime_ns
    seen: list[PoolProgress] = []
    open_pool(SMALL_POOL, 10, pool_copy, seen.append)
    assert [(progress.scenes, progress.total, progress.processes) for progress in seen] == [
        (0, 9, 1),
        (9, 9, 1),
    ]
    assert seen[0].total_bytes == shard_bytes(SMALL_POOL)
    assert shard_path(pool_copy, 1).stat().st_size == pytest.approx(shard_bytes(SMALL_POOL), rel=0.1)
    assert not leftover.exists()
    assert shard_path(pool_copy, 0).stat().st_mtime_ns == before
    open_pool(SMALL_POOL, 2 * SCENES_PER_SHARD, pool_copy, seen.append)
    assert len(seen) == 2, "nothing was missing"


def test_empty_scenes_are_added_to_a_pool_and_have_no_targets(pool_copy: Path) -> None:
    before = shard_path(pool_copy, 0).stat().st_mtime_ns
    with_targets = ScenePool(pool_copy, [0])
    (pool_copy / ".empty-000000.abc.npz").write_bytes(b"half")  # of a killed process
    pool = open_pool(SMALL_POOL, 1, pool_copy, empty_scenes=1)
    assert sorted(path.name for path in pool_copy.iterdir()) == [
        "empty-000000.npz",
        "pool.json",
        "shard-000000.npz",
    ]
    assert shard_path(pool_copy, 0).stat().st_mtime_ns == before
    rng = np.random.default_rng(0)
    differences = []
    for clip in (False, True):
        for _ in range(20):
            shot = pool.draw(rng, 0.5, clip, empty=1)
            assert shot.is_empty
            assert not any(shot.targets(tick) for tick in shot.index.target_ticks)
            same = next(
                other
                for other in with_targets.shots(0)
                if (other.index.scene, other.index.ticks) == (shot.index.scene, shot.index.ticks)
            )
            differences.append(float((same.frames != shot.frames).mean()))
    # Half of the scenes are the same without their targets, the others are different ones.
    assert 0.3 < np.mean(np.array(differences) > 0.5) < 0.7
    shares = [pool.draw(rng, 0.5, empty=0.25).is_empty for _ in range(400)]
    assert 0.15 < np.mean(shares) < 0.35


def test_draws_with_targets_are_the_same_in_a_pool_with_empty_scenes(pool_copy: Path) -> None:
    pools = ScenePool(pool_copy, [0]), open_pool(SMALL_POOL, 1, pool_copy, empty_scenes=1)
    first, second = ([pool.draw(np.random.default_rng(i), 0.5).index for i in range(20)] for pool in pools)
    assert first == second


def test_damaged_shard_is_rendered_again_with_the_same_bytes(pool_copy: Path) -> None:
    path = shard_path(pool_copy, 0)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:50_000] + bytes(100) + whole[50_100:]):
        path.write_bytes(damaged)
        assert not is_intact(path)
        open_pool(SMALL_POOL, 1, pool_copy)
        assert is_intact(path)
        with np.load(path) as again, np.load(default_folder(SMALL_POOL) / path.name) as original:
            assert (again["frames"] == original["frames"]).all()
            assert (again["targets"] == original["targets"]).all()


def test_pool_of_other_settings_is_refused_in_one_line(
    pool_copy: Path, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    with pytest.raises(InputError, match=r"other settings \(seed 1 there, 2 in the recipe\): name another"):
        open_pool(replace(SMALL_POOL, seed=2), 1, pool_copy)
    newer = replace(SMALL_POOL, simulation="newer")
    open_pool(newer, 1, pool_copy)  # whole, so nothing is mixed
    with pytest.raises(InputError, match="rendered by another version of the simulated world"):
        open_pool(newer, 10, pool_copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt and no pool of scenes"):
        open_pool(SMALL_POOL, 1, tmp_path / "mine")
    for text in ("no JSON", "[]", '{"format": 99}', '{"format": 1, "seed": 1}'):
        (pool_copy / "pool.json").write_text(text)
        with pytest.raises(InputError, match="is not a pool of scenes"):
            open_pool(SMALL_POOL, 1, pool_copy)
    options = set_options(SHORT_SKD)
    outcome = command("train", "demo", "--out", tmp_path / "s.safetensors", "--pool", pool_copy, *options)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_full_disk_is_reported_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 5 * 10**8)
    )
    with pytest.raises(
        InputError, match=r"the pool of 2250 scenes needs 3\.0 GB more in .*, and 0\.5 GB are free"
    ):
        open_pool(replace(SMALL_POOL, width=256, height=144), 2250, tmp_path / "pool")
    assert not list((tmp_path / "pool").glob("shard-*"))


def test_second_process_says_that_it_waits_for_the_one_that_renders(
    pool_copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    handle = acquire_lock(pool_copy / ".lock")
    assert handle is not None
    waits: list[float] = []

    def release(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            os.close(handle)

    monkeypatch.setattr(time, "sleep", release)
    open_pool(SMALL_POOL, 1, pool_copy)
    assert len(waits) == 2
    waiting = f"waiting for another process, which renders scenes in {pool_copy}\n"
    assert capfd.readouterr().err == waiting


KILLED_AFTER_ONE_SHARD = """
    import multiprocessing, os, signal, sys
    from pathlib import Path
    from tests.support.pools import SMALL_POOL
    from trainer.data.pool_rendering import open_pool

    def kill(progress):
        if progress.scenes:
            print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":  # not in the workers, which import this file
        open_pool(SMALL_POOL, 19, Path(sys.argv[1]), kill)
"""


def _runs(pid: int) -> bool:
    """Return whether a process runs; a zombie has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.first
def test_killed_rendering_resumes_with_the_shards_that_are_whole(pool_copy: Path) -> None:
    script = pool_copy.parent / "killed.py"
    script.write_text(textwrap.dedent(KILLED_AFTER_ONE_SHARD))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run(
        [sys.executable, script, pool_copy], timeout=300, env=environment, stdout=subprocess.PIPE
    )
    assert killed.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in killed.stdout.split()]
    assert len(workers) == 2
    assert wait_until(lambda: not any(map(_runs, workers)), 60)
    seen: list[PoolProgress] = []
    open_pool(SMALL_POOL, 19, pool_copy, seen.append)
    assert all(is_intact(shard_path(pool_copy, number)) for number in range(3))
    assert not seen or seen[0].total <= SCENES_PER_SHARD, "at least one of two shards was kept"


def test_parts_of_a_pool_share_no_scene(pool_copy: Path) -> None:
    parts = open_pool(SMALL_POOL, 10, pool_copy).split(1)
    rng = np.random.default_rng(0)
    first, others = ({part.draw(rng, 0.5).index.scene for _ in range(60)} for part in parts)
    assert len(first) == len(others) == 9
    assert not first & others


def test_parts_of_a_pool_share_no_empty_scene_if_there_are_enough(pool_copy: Path) -> None:
    for name in ("empty-000000.npz", "empty-000001.npz", "shard-000001.npz"):  # drawn by their numbers alone
        shutil.copy(pool_copy / "shard-000000.npz", pool_copy / name)
    rng = np.random.default_rng(0)
    for count, numbers in ((2, (0, 1)), (1, (0, 0))):
        for part, number in zip(ScenePool(pool_copy, [0, 1], range(count)).split(1), numbers, strict=True):
            assert {part.draw(rng, 0, empty=1).shard for _ in range(20)} == {number}
