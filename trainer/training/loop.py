"""Running a stage: devices, checkpoints to go on from, logs, and a loss that goes wrong."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from pydantic import ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.hardware.host import detect_machine
from trainer.recipes.loader import Recipe, StageTable
from trainer.training.stage import TrainingStage
from trainer.training.sync_batch_norm import BatchNormSync

Samples = Dataset[dict[str, Tensor]]
LOSS_WINDOW = 20
"""Steps whose mean loss is what a training must not rise above twice."""


class EndlessSamples(Protocol):
    """Samples as a stream: told once which share of it is whose, and where it was left."""

    def share(self, part: int, parts: int, start: int) -> None:
        """Give part `part` of `parts` (process_group), as if `start` samples of it had been given before."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training is: told after each step. `wait`: share of the stage's time spent on data."""

    stage: str
    step: int
    steps: int
    loss: float
    wait: float


@dataclass(frozen=True)
class TrainingRun:
    """A training's place and audience.

    `folder`: for checkpoints every `interval` steps and logs; found there, the training goes on. A kill
    loses no more than the last interval's steps.
    """

    folder: Path | None = None
    interval: int = 200
    on_step: Callable[[TrainingProgress], None] = lambda progress: None


def open_run(run: TrainingRun, recipe: Recipe) -> None:
    """Keep the recipe in the run's folder, or check that it is the one that was begun there.

    Raises:
        InputError: the folder holds another recipe's training.
    """
    if run.folder is None:
        return
    kept = run.folder / "recipe.json"
    if kept.is_file():
        try:
            same = type(recipe).model_validate_json(kept.read_bytes()) == recipe
        except ValidationError:
            same = False
        if not same:
            raise InputError(
                f"{run.folder} holds the training of another recipe: name another folder, or remove it"
            )
    elif process_group().rank == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as pending:
            pending.write_text(json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n")


@dataclass(frozen=True)
class ProcessGroup:
    """How many processes train together, and which this is: from torchrun's or SLURM's environment."""

    rank: int
    world: int
    local_world: int


def process_group() -> ProcessGroup:
    """Read the environment: one process if neither torchrun nor srun started it.

    Raises:
        InputError: srun started more tasks on one node than on another.
    """
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        return ProcessGroup(int(found["RANK"]), int(found["WORLD_SIZE"]), int(found["LOCAL_WORLD_SIZE"]))
    if "SLURM_PROCID" in found and found.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world = int(found["SLURM_NTASKS"])
        here, over = divmod(world, int(found.get("SLURM_NNODES", "1")))
        if over:
            raise InputError(
                f"srun started {world} tasks on {found['SLURM_NNODES']} nodes: give each node as many"
            )
        found.setdefault("SLURM_NTASKS_PER_NODE", str(here))  # Lightning refuses to work it out
        return ProcessGroup(int(found["SLURM_PROCID"]), world, here)
    return ProcessGroup(0, 1, 1)


def fit(
    name: str,
    stage: TrainingStage,
    samples: Samples,
    recipe: Recipe,
    table: StageTable,
    run: TrainingRun | None = None,
) -> None:
    """Train the stage for its steps, or go on where the run's folder has it; leave it in evaluation mode.

    A batch is shared out to the processes: the recipe is the same for one or many.

    Raises:
        InputError: the batch cannot be shared out evenly, the loss is not finite or has risen to twice
            what it was at first (where that was below 0: by as much, or by 1), or a weight is not finite.
    """
    run = run or TrainingRun()
    team = process_group()
    if table.batch % team.world:
        raise InputError(
            f"{name}: a batch of {table.batch} cannot be shared out to {team.world} processes; set a multiple"
        )
    place = run.folder / name if run.folder else None
    done, last = (place / "done.pt", place / "last.ckpt") if place else (None, None)
    if done is not None and done.is_file():
        stage.load_state_dict(torch.load(done, weights_only=True))
        stage.eval()
        return
    step = _read_step(last) if last is not None and last.is_file() else 0
    torch.set_num_threads(max(1, detect_machine().cores // team.local_world - recipe.workers))
    watch = _LossMonitor(name, table.steps, run.on_step)
    callbacks: list[Callback] = [watch]
    if table.average:
        callbacks.append(EMAWeightAveraging(decay=table.average))
    if place:
        callbacks.append(
            ModelCheckpoint(
                place,
                filename="last",
                every_n_train_steps=run.interval,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    mixed = recipe.mixed and (stage.allows_bfloat16_on_cpu or torch.cuda.is_available())
    with _silence_lightning():
        trainer = L.Trainer(
            max_steps=table.steps,
            max_epochs=-1,
            devices=team.local_world if team.world > 1 else 1,
            num_nodes=team.world // team.local_world,
            strategy="ddp" if team.world > 1 else "auto",
            plugins=BatchNormSync() if team.world > 1 else None,
            use_distributed_sampler=False,  # ours also knows where a run was left
            callbacks=callbacks,
            logger=_loggers(place, step) if place else False,
            log_every_n_steps=max(1, min(10, table.steps // 20)),
            enable_checkpointing=place is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            precision="bf16-mixed" if mixed else "32-true",
            inference_mode=False,
        )
        stage.to(memory_format=stage.layout)
        loader = _loader(samples, recipe, table, team, step)
        with _interruptible(watch.interrupted):
            trainer.fit(stage, loader, ckpt_path=last if step else None, weights_only=False if step else None)
    stage.eval()
    if broken := next(
        (name for name, value in stage.state_dict().items() if not value.isfinite().all()), None
    ):
        raise InputError(f"{name}: {broken} is not finite after {table.steps} steps; lower the stage's rate")
    if done is not None and team.rank == 0:
        with atomic_file(done) as pending:
            torch.save(stage.state_dict(), pending)


class _ResumableSampler(Sampler[int]):
    """Samples in a mixed order without end, epoch by epoch; each process takes its share of it."""

    def __init__(self, samples: Any, seed: int, team: ProcessGroup, start: int) -> None:
        self._length, self._seed, self._team, self._start = len(samples), seed, team, start

    def __iter__(self) -> Iterator[int]:
        epoch, at = divmod(self._start, self._length)
        place = self._start
        while True:
            order = torch.randperm(
                self._length, generator=torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            )
            for index in order[at:].tolist():
                if place % self._team.world == self._team.rank:
                    yield index
                place += 1
            epoch, at = epoch + 1, 0


def _loader(
    samples: Samples, recipe: Recipe, table: StageTable, team: ProcessGroup, step: int
) -> DataLoader[dict[str, Tensor]]:
    endless = isinstance(samples, IterableDataset)
    if endless:
        samples.share(team.rank, team.world, step * table.batch)  # type: ignore[attr-defined]
    return DataLoader(
        samples,
        batch_size=table.batch // team.world,
        sampler=None if endless else _ResumableSampler(samples, recipe.seed, team, step * table.batch),
        num_workers=recipe.workers,
        multiprocessing_context=_worker_context() if recipe.workers else None,
        persistent_workers=recipe.workers > 0,
        worker_init_fn=_ignore_interrupts,
        pin_memory=torch.cuda.is_available(),
    )


def _read_step(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"])
    except Exception as error:  # torch.load's errors share no base
        raise InputError(
            f"{checkpoint} cannot be read ({type(error).__name__}): remove it, and the stage starts again"
        ) from None


def _loggers(place: Path, step: int) -> list[Logger]:
    """CSV beside the checkpoint, a file for each start; TensorBoard's files are one story by themselves."""
    version = f"from-{step:06d}" if step else ""
    return [
        CSVLogger(place.parent, name=place.name, version=version),
        TensorBoardLogger(place.parent, name=place.name, version="tensorboard"),
    ]


class _LossMonitor(Callback):
    """Tells each step, and ends a training that is interrupted or whose loss goes wrong early."""

    def __init__(self, stage: str, steps: int, on_step: Callable[[TrainingProgress], None]) -> None:
        self._stage, self._steps, self._on_step = stage, steps, on_step
        self.interrupted = threading.Event()
        self._first: list[float] = []
        self._smooth = 0.0
        self._waited = 0.0
        self._begun = self._ended = 0.0

    @property
    def state_key(self) -> str:
        """Return the key of this state in checkpoints: the first name of the class, which files hold."""
        return "_Watch"

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that is gone on with must know: how its loss began, and how it stands."""
        return {"first": self._first, "smooth": self._smooth}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint told."""
        self._first, self._smooth = list(state_dict["first"]), state_dict["smooth"]

    def on_train_batch_start(self, *args: Any) -> None:
        """Count the time since the last step's end as waiting for data; the first batch starts the clock."""
        self._end_if_interrupted()
        now = time.perf_counter()
        self._begun = self._begun or now
        self._waited += now - (self._ended or now)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Look at the loss, log it and tell it."""
        loss, step = float(outputs["loss"]), trainer.global_step
        self._ended = time.perf_counter()
        wait = self._waited / max(self._ended - self._begun, 1e-9)
        if not math.isfinite(loss):
            raise InputError(f"{self._stage}: the loss became {loss} at step {step}; lower the stage's rate")
        if len(self._first) < LOSS_WINDOW:
            self._first.append(loss)
            self._smooth = sum(self._first) / len(self._first)
        else:
            self._smooth += (loss - self._smooth) / LOSS_WINDOW
            started = sum(self._first) / LOSS_WINDOW
            below = min(self._first) < 0  # as NSS is
            if self._smooth > (started + max(1.0, abs(started)) if below else 2 * started):
                raise InputError(
                    f"{self._stage}: the loss rose to {self._smooth:.3g} by step {step}, from the "
                    f"{started:.3g} it began with; lower the stage's rate"
                )
        pl_module.log_dict({"loss": loss, "wait": wait})
        self._on_step(TrainingProgress(self._stage, step, self._steps, loss, wait))
        self._end_if_interrupted()

    def _end_if_interrupted(self) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt


def _worker_context() -> BaseContext:
    """Return how workers start: not as copies of this process.

    A copy of OpenCV whose threads were left behind waits for them for ever. The server that workers
    are copied from has imported what they need, once for all stages.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.synthetic_pairs"])
    return context


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the one that ends the others."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interruptible(asked: threading.Event) -> Iterator[None]:
    """Let Ctrl-C end a training as it ends all else, between two steps; pressed again, at once.

    Raised wherever the program stands, it is lost in a callback from C, or breaks off what a worker is
    handing over; and Lightning turns it into an exit with 1. `asked` is set once it was pressed.
    """
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, where: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.set()

    ours = threading.current_thread() is threading.main_thread()
    if ours and before is signal.default_int_handler:
        signal.signal(signal.SIGINT, press)
    try:
        yield
        if asked.is_set():
            raise KeyboardInterrupt  # pressed after the last step
    except (SystemExit, Exception) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is None and (isinstance(error, InputError) or not asked.is_set()):
            raise
        raise KeyboardInterrupt from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _silence_lightning() -> Iterator[None]:
    """Lightning's notices off while a stage runs: what matters is told by the command."""
    for logger in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for known in (
            ".*does not have many workers.*",
            ".*`srun` command is available on your system but is not used.*",
            ".*isinstance.treespec, LeafSpec.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*Experiment logs directory .* exists and is not empty.*",
        ):
            warnings.filterwarnings("ignore", message=known)
        yield
