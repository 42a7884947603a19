"""Rendering of a pool of scenes by several processes, shard by shard; a killed rendering resumes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from edge.core.atomic_files import atomic_file, cache_folder, translate_write_errors
from edge.core.errors import InputError
from edge.core.locks import acquire_lock
from edge.hardware.host import detect_machine
from edge.simulation.world import VisibleTarget, World
from trainer.data.gaze_model import GAZE_LAG_S, GAZE_LAG_STEPS
from trainer.data.scene_pool import (
    FIRST_TRAINING_SCENE,
    FORMAT,
    SCENES_PER_SEED,
    SCENES_PER_SHARD,
    SETTINGS_FILE,
    TICKS_PER_S,
    PoolSettings,
    ScenePool,
    ShardName,
    ShotIndex,
    is_intact,
    pack_shard,
    read_settings,
    shard_path,
)
from trainer.data.workers import prepare_worker, worker_context

SHOTS_PER_SCENE = 3
"""Short shots of a scene without a clip."""
SHORT_LAGS_TICKS, LONG_LAGS_TICKS = (1, 6), (12, 30)
"""Least and most ticks by which the two earlier frames of a short shot lie before its last one: 1/60 to
1/10 s for the frame before at 10 to 60 frames per second, and 0.2 to 0.5 s for students with a lag."""
SCENE_TICKS, TWIN_SCENE_TICKS = 60 * TICKS_PER_S, 4 * TICKS_PER_S
"""Length of a scene. Twins drift apart soon, so their scenes are shorter."""
LAG_STEP_TICKS = round(GAZE_LAG_S / (GAZE_LAG_STEPS - 1) * TICKS_PER_S)
"""Ticks between the moments whose targets a density depends on."""
SCENE_S, RENDERED_BYTES_PER_S = 0.115, 18e6
"""Processor time per scene, and bytes of frames per second besides, measured on a server CPU, kind varied."""
LOCK_WAIT_S = 0.5
DISK_RESERVE = 1.05
"""Space that must be free, relative to the size of the missing shards."""


@dataclass(frozen=True)
class PoolProgress:
    """Progress of a rendering.

    Attributes:
        folder: Folder of the pool.
        scenes: Scenes rendered so far by this command.
        total: Scenes that this command renders.
        total_bytes: Size of these scenes.
        processes: Processes that render.
        expected_s: Time that all of these scenes will take, from `SCENE_S`.
    """

    folder: Path
    scenes: int
    total: int
    total_bytes: int
    processes: int
    expected_s: float


def ignore_progress(progress: PoolProgress) -> None:
    """Show nothing."""


def default_folder(settings: PoolSettings) -> Path:
    """Return the folder of a pool in the cache."""
    return cache_folder() / "pools" / settings.key


def open_pool(
    settings: PoolSettings,
    scenes: int,
    folder: Path | None = None,
    on_progress: Callable[[PoolProgress], None] = ignore_progress,
    empty_scenes: int = 0,
) -> ScenePool:
    """Open a pool; scenes that are missing or damaged are rendered first.

    Args:
        settings: Settings of the pool.
        scenes: Least number of scenes with targets; whole shards are rendered.
        folder: Folder of the pool; None takes the one in the cache, which is made for each setting.
        on_progress: Function that is called before the first shard and after each.
        empty_scenes: Least number of scenes without targets.

    Raises:
        InputError: The folder holds a pool of other settings, cannot be written, or the disk is too full.
    """
    folder = folder or default_folder(settings)
    shards, empty_shards = (range(-(-count // SCENES_PER_SHARD)) for count in (scenes, empty_scenes))
    wanted = [ShardName(number) for number in shards] + [ShardName(number, True) for number in empty_shards]
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder, "renders scenes"):
        _write_or_check_settings(folder, settings)
        missing = [shard for shard in wanted if not is_intact(shard_path(folder, *shard))]
        if missing:
            _check_simulation(folder, settings)
            _check_disk(folder, settings, len(missing), scenes + empty_scenes)
            _render_shards(folder, settings, missing, on_progress)
    return ScenePool(folder, shards, empty_shards)


def shard_bytes(settings: PoolSettings) -> int:
    """Return the size of a shard's frames, which are nearly all of it."""
    clips = sum(_has_clip(number) for number in range(SCENES_PER_SHARD))
    frames = clips * settings.clip_frames + (SCENES_PER_SHARD - clips) * SHOTS_PER_SCENE * 3
    return frames * settings.width * settings.height * 3


@contextmanager
def hold_folder(folder: Path, activity: str) -> Iterator[None]:
    """Hold the lock of a folder; wait, and say so, while another process writes into it.

    Args:
        folder: Folder that this process will write into.
        activity: What the other process does, as "renders scenes".
    """
    path = folder / ".lock"
    with translate_write_errors(folder):
        # Of a training's processes, the first one says it.
        is_told = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"
        while (handle := acquire_lock(path)) is None:
            if not is_told:
                message = f"waiting for another process, which {activity} in {folder}"
                print(message, file=sys.stderr, flush=True)
                is_told = True
            time.sleep(LOCK_WAIT_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _write_or_check_settings(folder: Path, settings: PoolSettings) -> None:
    if not (folder / SETTINGS_FILE).is_file():
        if foreign := next((path for path in folder.iterdir() if not path.name.startswith(".")), None):
            raise InputError(
                f"{folder} holds {foreign.name} and no pool of scenes; expected an empty or new folder"
            )
        with atomic_file(folder / SETTINGS_FILE) as pending:
            pending.write_text(json.dumps({"format": FORMAT, **asdict(settings)}, indent=1) + "\n")
        return
    stored, wanted = asdict(read_settings(folder)), asdict(settings)
    # Frames of another version of the world are as good as those of this one, as long as they are not mixed.
    differences = [
        f"{key} {stored[key]} there, {wanted[key]} in the recipe"
        for key in stored
        if key != "simulation" and stored[key] != wanted[key]
    ]
    if differences:
        raise InputError(
            f"{folder} is a pool of other settings ({'; '.join(differences)}): name another folder, or "
            "remove it, and it is made again"
        )


def _check_simulation(folder: Path, settings: PoolSettings) -> None:
    if read_settings(folder).simulation != settings.simulation:
        raise InputError(
            f"{folder} lacks scenes, and those in it were rendered by another version of the simulated "
            "world: name another folder, remove it, or lower world.scenes and world.empty to what it holds"
        )


def _check_disk(folder: Path, settings: PoolSettings, shards: int, scenes: int) -> None:
    for pattern in (".shard-*", ".empty-*"):  # of a killed process: this one holds the lock
        for leftover in folder.glob(pattern):
            leftover.unlink()
    needed, free = shards * shard_bytes(settings) * DISK_RESERVE, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the pool of {scenes} scenes needs {needed / 1e9:.1f} GB more in {folder}, and "
            f"{free / 1e9:.1f} GB are free: free some space, name a folder on another disk with --pool, or "
            "lower world.scenes"
        )


def _render_shards(
    folder: Path,
    settings: PoolSettings,
    missing: Sequence[ShardName],
    on_progress: Callable[[PoolProgress], None],
) -> None:
    processes = min(detect_machine().cores, len(missing))
    scenes, total_bytes = len(missing) * SCENES_PER_SHARD, len(missing) * shard_bytes(settings)
    expected_s = (scenes * SCENE_S + total_bytes / RENDERED_BYTES_PER_S) / processes

    def report(shards: int) -> None:
        on_progress(
            PoolProgress(folder, shards * SCENES_PER_SHARD, scenes, total_bytes, processes, expected_s)
        )

    report(0)
    shards = DataLoader(
        _MissingShards(folder, settings, missing),
        batch_size=None,
        num_workers=processes if processes > 1 else 0,
        multiprocessing_context=worker_context() if processes > 1 else None,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),  # otherwise a training would depend on whether it had to render
    )
    for done, fault in enumerate(shards, 1):
        if fault:
            raise InputError(fault)
        report(done)


class _MissingShards(Dataset[str]):
    """Shards that are rendered on access."""

    def __init__(self, folder: Path, settings: PoolSettings, missing: Sequence[ShardName]) -> None:
        self._folder, self._settings, self._missing = folder, settings, missing

    def __len__(self) -> int:
        return len(self._missing)

    def __getitem__(self, index: int) -> str:
        """Render a shard; return what went wrong, since an exception of a worker is no single line."""
        try:
            render_shard(self._folder, self._settings, self._missing[index])
        except InputError as error:
            return str(error)
        return ""


def render_shard(folder: Path, settings: PoolSettings, shard: ShardName) -> None:
    """Render the scenes of a shard and write it at once."""
    cv2.setNumThreads(1)
    first = shard.number * SCENES_PER_SHARD
    shots = [
        shot
        for scene in range(first, first + SCENES_PER_SHARD)
        for shot in _render_scene(settings, scene, shard.is_empty)
    ]
    path = shard_path(folder, *shard)
    with atomic_file(path) as pending, translate_write_errors(path):
        np.savez(pending, **pack_shard(shots))  # type: ignore[arg-type]


RenderedShot = tuple[ShotIndex, list[Any], list[tuple[VisibleTarget, ...]]]
"""Entry of a shot, its frames, and the targets at each of its target ticks."""


def _has_clip(number: int) -> bool:
    return number % 3 == 0


def _has_twins(number: int) -> bool:
    return number // 3 % 3 == 0


def _render_scene(settings: PoolSettings, number: int, is_empty: bool) -> list[RenderedShot]:
    """Render a scene: of three, one has a clip and two have short shots; a third of each has twins.

    Half of the empty scenes are those with targets, without these; in the others nothing looks like one.
    """
    seed, twins = FIRST_TRAINING_SCENE + settings.seed * SCENES_PER_SEED + number, _has_twins(number)
    rng = np.random.default_rng([settings.seed, number])
    bare = is_empty and number % 2 == 1
    world = World(
        seed, settings.width, settings.height, TICKS_PER_S, twins=twins, kind=settings.kind, empty=bare
    )
    length = TWIN_SCENE_TICKS if twins else SCENE_TICKS

    def render_shot(ticks: Sequence[int], labelled: Sequence[int]) -> RenderedShot:
        shown = without_targets(world, ticks) if is_empty else world
        return _render_shot(shown, seed, twins and not is_empty, ticks, labelled)

    if _has_clip(number):
        step = round(TICKS_PER_S / settings.clip_fps)
        first = int(rng.integers(length))
        ticks = range(first, first + step * settings.clip_frames, step)
        return [render_shot(ticks, range(len(ticks)))]
    shots = []
    for last in rng.integers(LONG_LAGS_TICKS[1], length, SHOTS_PER_SCENE).tolist():
        lags = (rng.integers(low, high, endpoint=True) for low, high in (LONG_LAGS_TICKS, SHORT_LAGS_TICKS))
        shots.append(render_shot([*(last - int(lag) for lag in lags), last], (1, 2)))
    return shots


def without_targets(world: World, indices: Iterable[int]) -> World:
    """Return a scene without the targets that are visible in some frames; what only looks like one stays."""
    for target_id in sorted({target.target_id for index in indices for target in world.targets(index)}):
        world = world.without_target(target_id)
    return world


def _render_shot(
    world: World, seed: int, twins: bool, ticks: Sequence[int], labelled: Sequence[int]
) -> RenderedShot:
    frames = {tick: world.frame(tick) for tick in ticks}
    targets = {tick: frame.targets for tick, frame in frames.items()}
    for position in labelled:
        for lag in range(1, GAZE_LAG_STEPS):
            earlier = ticks[position] - lag * LAG_STEP_TICKS
            # The targets of a moment close by do: only their past positions are averaged.
            if min(abs(earlier - tick) for tick in targets) > LAG_STEP_TICKS // 2:
                targets[earlier] = world.targets(earlier)
    target_ticks = sorted(targets)
    index = ShotIndex(seed, twins, tuple(ticks), tuple(target_ticks), tuple(labelled))
    return index, [frame.image for frame in frames.values()], [targets[tick] for tick in target_ticks]
