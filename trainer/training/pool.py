"""Pool of simulated scenes that a recipe is trained on."""

from __future__ import annotations

import json
from pathlib import Path

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import read_json
from edge.inference.interface.recurrent_state import NOMINAL_FPS
from trainer.data.pool_rendering import default_folder, open_pool
from trainer.data.scene_pool import PoolSettings, ScenePool, read_settings, simulation_digest
from trainer.recipes.loader import Recipe, WorldTable
from trainer.training.distributed import process_group
from trainer.training.loop import TrainingRun, check_run

SCENES_FILE = "scenes.json"
"""File with the pool that a training draws its scenes from, and the version of the simulated world."""


def open_scenes(
    recipe: Recipe,
    world: WorldTable,
    run: TrainingRun | None,
    clip_fps: float = NOMINAL_FPS,
    least_size: tuple[int, int] = (0, 0),
) -> ScenePool:
    """Open the pool of a recipe; scenes that are missing are rendered first.

    Args:
        recipe: Recipe with the seed.
        world: Its table for the simulated scenes.
        run: Where the pool is, and whom to tell about its progress.
        clip_fps: Frame rate of the clips.
        least_size: Least width and height of the frames.

    Raises:
        InputError: The run's folder holds the training of another recipe, or one on other scenes; see also
            `open_pool`.
    """
    run = run or TrainingRun()
    check_run(run, recipe)  # now, not after minutes of rendering
    settings = scene_settings(recipe, world, clip_fps, least_size)
    folder = run.pool or default_folder(settings)
    if run.folder is not None:
        _check_scenes(run.folder, folder)
    scenes, empty_scenes = world.count_scenes(recipe.samples), world.count_empty_scenes(recipe.samples)
    pool = open_pool(settings, scenes, run.pool, run.on_pool, empty_scenes)
    if run.folder is not None and process_group().rank == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(run.folder / SCENES_FILE) as pending:
            began = {"pool": str(folder.resolve()), "simulation": pool.settings.simulation}
            pending.write_text(json.dumps(began) + "\n")
    return pool


def _check_scenes(run: Path, pool: Path) -> None:
    """Check that a resumed training goes on with the scenes that it began with.

    Raises:
        InputError: They were rendered by another version of the simulated world.
    """
    path = run / SCENES_FILE
    if not path.is_file():  # it begins, or an older version began it
        return
    began = read_json(path, "the scenes of a training")
    try:
        current = read_settings(pool).simulation
    except InputError:  # not rendered yet
        current = simulation_digest()
    if began.get("simulation") == current:
        return
    before = Path(str(began.get("pool")))
    remedy = f"add --pool {before} to go on, or" if before.is_dir() else "they are gone,"
    raise InputError(
        f"{run} holds a training on scenes of another version of the simulated world: {remedy} name "
        "another folder with --run"
    )


def scene_settings(
    recipe: Recipe, world: WorldTable, clip_fps: float = NOMINAL_FPS, least_size: tuple[int, int] = (0, 0)
) -> PoolSettings:
    """Return the settings of a recipe's pool, as in `open_scenes`."""
    width, height = max(world.width, least_size[0]), max(world.height, least_size[1])
    return PoolSettings(recipe.seed, width, height, world.frames, clip_fps, simulation_digest(), world.kind)
