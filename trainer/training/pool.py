"""Pool of simulated scenes that a recipe is trained on."""

from __future__ import annotations

from edge.inference.interface.recurrent_state import NOMINAL_FPS
from trainer.data.pool_rendering import open_pool
from trainer.data.scene_pool import PoolSettings, ScenePool, simulation_digest
from trainer.recipes.loader import Recipe, WorldTable
from trainer.training.loop import TrainingRun, check_run


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
        InputError: The run's folder holds the training of another recipe; see also `open_pool`.
    """
    run = run or TrainingRun()
    check_run(run, recipe)  # now, not after minutes of rendering
    settings = scene_settings(recipe, world, clip_fps, least_size)
    return open_pool(settings, world.count_scenes(recipe.samples), run.pool, run.on_pool)


def scene_settings(
    recipe: Recipe, world: WorldTable, clip_fps: float = NOMINAL_FPS, least_size: tuple[int, int] = (0, 0)
) -> PoolSettings:
    """Return the settings of a recipe's pool, as in `open_scenes`."""
    width, height = max(world.width, least_size[0]), max(world.height, least_size[1])
    return PoolSettings(recipe.seed, width, height, world.frames, clip_fps, simulation_digest(), world.kind)
