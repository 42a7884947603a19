"""Training loop of a stage: devices, checkpoints, logs and interrupts."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from pydantic import ValidationError
from torch.distributed import DistError

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.core.guarded_files import read_bytes
from edge.sources.pixel_range import describe_range
from trainer.data.pool_rendering import PoolProgress, ignore_progress
from trainer.recipes.loader import Recipe, StageTable
from trainer.training.distributed import ProcessGroup, process_group, share_cores
from trainer.training.loading import Samples, make_loader
from trainer.training.monitor import LossMonitor, TrainingProgress
from trainer.training.stage import TrainingStage
from trainer.training.sync_batch_norm import BatchNormSync

CHECKPOINT = "last.ckpt"
"""Checkpoint of an unfinished stage."""
FINISHED = "done.pt"
"""Weights of a finished stage."""
RECIPE_FILE = "recipe.json"
"""Recipe of the training in a run's folder."""
RANGE_FILE = "pixel-range.txt"
"""File with the range of deep pixels that a training began with, `auto` or LOW,HIGH."""


@dataclass(frozen=True)
class TrainingRun:
    """Folder, checkpoint interval and progress callback of a training.

    Attributes:
        folder: Folder for checkpoints and logs, or None. If it holds an unfinished training of the same
            recipe, the training continues there.
        interval: Steps between checkpoints, the most that a killed process loses.
        on_step: Function that is called after each step.
        on_interrupt: Function that is called at once on Ctrl-C, in the signal handler. The training ends
            after the current step.
        pool: Folder of the pool of scenes; None takes the one in the cache.
        on_pool: Function that is called while missing scenes of the pool are rendered.
        on_labels: Function that is called while the teachers' maps of the pool are computed, with the
            number of shards that are done and of all.
    """

    folder: Path | None = None
    interval: int = 200
    on_step: Callable[[TrainingProgress], None] = lambda progress: None
    on_interrupt: Callable[[], None] = lambda: None
    pool: Path | None = None
    on_pool: Callable[[PoolProgress], None] = ignore_progress
    on_labels: Callable[[int, int], None] = lambda done, total: None


def open_run(run: TrainingRun, recipe: Recipe) -> None:
    """Store the recipe in the run's folder, or check that the folder holds the same recipe.

    Raises:
        InputError: The folder holds the training of another recipe.
    """
    check_run(run, recipe)
    if run.folder is None:
        return
    path = run.folder / RECIPE_FILE
    if not path.is_file() and process_group().rank == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(run.folder / RANGE_FILE) as pending:
            pending.write_text(f"{describe_range()}\n")
        with atomic_file(path) as pending:
            pending.write_text(json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n")


def check_run(run: TrainingRun, recipe: Recipe) -> None:
    """Check that the run's folder holds no other recipe; nothing is stored.

    Raises:
        InputError: The folder holds the training of another recipe, or one with another `--range`.
    """
    path = run.folder / RECIPE_FILE if run.folder is not None else None
    if path is not None and path.is_file():
        try:
            is_same = type(recipe).model_validate_json(path.read_bytes()) == recipe
        except ValidationError:
            is_same = False
        if not is_same:
            raise InputError(
                f"{run.folder} holds the training of another recipe: name another folder, or remove it"
            )
        _check_range(path.with_name(RANGE_FILE))


def _check_range(path: Path) -> None:
    """Check that deep pixels have the range that the training began with; older versions do not store it."""
    if not path.is_file():
        return
    stored = read_bytes(path, 100, "the range of a training").decode(errors="replace").strip()
    if stored != describe_range():
        raise InputError(
            f"{path.parent} holds a training with --range {stored}, this one has {describe_range()}: give "
            "the same range, or name another folder"
        )


def fit(
    name: str,
    stage: TrainingStage,
    samples: Samples,
    recipe: Recipe,
    table: StageTable,
    run: TrainingRun | None = None,
) -> None:
    """Train a stage, or continue its training, and leave it in evaluation mode.

    Several processes share each batch, so the recipe is the same for one process or many.

    Args:
        name: Name of the stage and of its folder.
        stage: Stage to train.
        samples: Samples to train on.
        recipe: Recipe with seed, workers and precision.
        table: Table of the stage.
        run: Where to store checkpoints; None stores nothing.

    Raises:
        InputError: The batch cannot be divided evenly; the loss is not finite or has risen to twice its
            initial value (for a loss that can be negative: by that value, at least by 1); a weight is not
            finite; the processes do not share the run's folder; the connection to one of them was lost.
    """
    run = run or TrainingRun()
    group = process_group()
    if table.batch % group.world_size:
        raise InputError(
            f"{name}: a batch of {table.batch} cannot be divided among {group.world_size} processes; "
            "set a multiple"
        )
    folder = run.folder / name if run.folder else None
    if folder is not None and (folder / FINISHED).is_file():
        _load_finished(stage, folder / FINISHED)
        return
    checkpoint = folder / CHECKPOINT if folder is not None and (folder / CHECKPOINT).is_file() else None
    step = _read_step(checkpoint) if checkpoint is not None else 0
    share_cores(recipe.workers)
    monitor = LossMonitor(name, table.steps, run.on_step)
    use_bfloat16 = recipe.mixed and (stage.allows_bfloat16_on_cpu or torch.cuda.is_available())
    with _silence_lightning():
        trainer = _make_trainer(
            table,
            group,
            [*_callbacks(monitor, table, folder, run.interval), _SharedStart(name, step)],
            _loggers(folder, step) if folder else False,
            "bf16-mixed" if use_bfloat16 else "32-true",
        )
        stage.to(memory_format=stage.memory_format)
        loader = make_loader(samples, recipe, table, group, step)
        with _explain_lost_process(group), _interruptible(monitor.interrupted, run.on_interrupt):
            resume = checkpoint if step else None
            trainer.fit(stage, loader, ckpt_path=resume, weights_only=True)
    stage.eval()
    _check_finite(name, stage, table.steps)
    if folder is not None and group.rank == 0:
        with atomic_file(folder / FINISHED) as pending:
            torch.save(stage.state_dict(), pending)


class _SharedStart(Callback):
    """Callback that ends a training whose processes would not start at the same step of the same stage.

    That is so if the run's folder is another one for some of them, as on machines that share no disk.
    """

    def __init__(self, stage: str, step: int) -> None:
        self._start = (stage, step)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare the start of this process with that of the first one."""
        first = trainer.strategy.broadcast(self._start)
        if not trainer.strategy.reduce_boolean_decision(first == self._start, all=True):
            raise InputError(
                f"the processes do not share the run's folder: the first one is at step {first[1]} of "
                f"{first[0]}, this one at step {self._start[1]} of {self._start[0]}; name a folder with "
                "--run that all machines share"
            )


def _callbacks(monitor: LossMonitor, table: StageTable, folder: Path | None, interval: int) -> list[Callback]:
    callbacks: list[Callback] = [monitor]
    if table.average:
        callbacks.append(EMAWeightAveraging(decay=table.average))
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                folder,
                filename=CHECKPOINT.removesuffix(".ckpt"),
                every_n_train_steps=interval,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    return callbacks


def _make_trainer(
    table: StageTable,
    group: ProcessGroup,
    callbacks: list[Callback],
    loggers: list[Logger] | Literal[False],
    precision: Literal["bf16-mixed", "32-true"],
) -> L.Trainer:
    distributed = group.world_size > 1
    return L.Trainer(
        max_steps=table.steps,
        max_epochs=-1,
        devices=group.local_world_size if distributed else 1,
        num_nodes=group.world_size // group.local_world_size,
        strategy="ddp" if distributed else "auto",
        plugins=BatchNormSync() if distributed else None,
        use_distributed_sampler=False,  # our sampler can also continue from any step
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=max(1, min(10, table.steps // 20)),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=precision,
        inference_mode=False,
    )


def _check_finite(name: str, stage: TrainingStage, steps: int) -> None:
    for key, value in stage.state_dict().items():
        if not value.isfinite().all():
            raise InputError(f"{name}: {key} is not finite after {steps} steps; lower the stage's rate")


def _load_finished(stage: TrainingStage, path: Path) -> None:
    try:
        stage.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise InputError(
            f"{path} does not hold the weights of this stage ({type(error).__name__}): remove it to train "
            "the stage again"
        ) from None
    stage.eval()


def _read_step(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except pickle.UnpicklingError:
        raise InputError(
            f"{checkpoint} is damaged or holds more than tensors and plain values, such as code; nothing of "
            "it was run: remove it to start the stage again"
        ) from None
    except Exception as error:  # torch.load's errors have no common base class
        raise InputError(
            f"{checkpoint} cannot be read ({type(error).__name__}): remove it to start the stage again"
        ) from None


def _loggers(folder: Path, step: int) -> list[Logger]:
    """Return the loggers of a stage: a CSV file for each start, and TensorBoard, which joins its files."""
    version = f"from-{step:06d}" if step else ""
    return [
        CSVLogger(folder.parent, name=folder.name, version=version),
        TensorBoardLogger(folder.parent, name=folder.name, version="tensorboard"),
    ]


@contextmanager
def _explain_lost_process(group: ProcessGroup) -> Iterator[None]:
    """Raise the error of a lost connection, which names neither cause nor remedy, as `InputError`.

    Raises:
        InputError: Another process of the training has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo's errors have no class of their own. Its messages begin with the name of a file of its source.
        is_lost = isinstance(error, DistError) or "gloo/transport" in str(error)
        if group.world_size == 1 or not is_lost:
            raise
        raise InputError(
            "the connection to another process of this training was lost, because it failed or was killed: "
            "start the training again on all machines; with --run it goes on from its last checkpoint"
        ) from error


@contextmanager
def _interruptible(interrupted: threading.Event, on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C end a training between two steps; a second Ctrl-C ends it at once.

    An exception raised by the signal handler could be lost in a callback from C or break a transfer from a
    worker, and Lightning turns it into exit code 1. Therefore the handler sets an event.

    Args:
        interrupted: Event that is set on Ctrl-C.
        on_interrupt: Function that is called on Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        interrupted.set()
        on_interrupt()

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and previous is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
        if interrupted.is_set():
            raise KeyboardInterrupt  # pressed after the last step
    except (SystemExit, Exception) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None and (isinstance(error, InputError) or not interrupted.is_set()):
            raise
        raise KeyboardInterrupt from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, previous)


@contextmanager
def _silence_lightning() -> Iterator[None]:
    """Turn off Lightning's messages; the command reports what matters."""
    for logger in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*`srun` command is available on your system but is not used.*",
            ".*isinstance.treespec, LeafSpec.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*Experiment logs directory .* exists and is not empty.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
