"""The distillation, in stages: teachers, stage 1 (two students), stage 2 (one network)."""

from __future__ import annotations

import logging
import math
import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edge.errors import InputError
from edge.machine import this_machine
from trainer.losses import LOSSES, hard_label
from trainer.made import MadeClips
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.student import Student, saliency
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes import Recipe, StageTable

Batch = dict[str, Tensor]


class Stage(L.LightningModule):
    """One stage: a loss of a batch, and the parameters that it trains."""

    def __init__(self, recipe: Recipe, table: StageTable) -> None:
        super().__init__()
        self._table = table
        self._loss = LOSSES[recipe.loss]
        self._head = recipe.settings().head

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the batch's loss and log it."""
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss became {loss.item()} at step {self.global_step}; lower the stage's rate"
            )
        self.log("loss", loss)
        return loss

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over the batch."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """Adam at a constant rate as in the paper, or AdamW down a cosine after a short rise."""
        parameters: Iterable[nn.Parameter] = [p for p in self.parameters() if p.requires_grad]
        if self._table.schedule == "constant":
            return torch.optim.Adam(parameters, self._table.rate)
        optimizer = torch.optim.AdamW(parameters, self._table.rate)
        rise, steps = max(1, self._table.steps // 10), self._table.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1))),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TeacherTraining(Stage):
    """Both teachers on the hard label, from frames larger than the students'."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, recipe.teachers)
        self.spatial, self.temporal = SpatialTeacher(), TemporalTeacher()
        if recipe.teachers.imagenet:
            self.spatial.encoder.load_imagenet()
            self.temporal.encoder.load_imagenet()

    def loss(self, batch: Batch) -> Tensor:
        """Return the sum of the teachers' losses."""
        hard = hard_label(batch["density"])
        return sum((self._loss(raw, hard) for raw in self.raw(batch)), torch.zeros((), device=self.device))

    def raw(self, batch: Batch) -> list[Tensor]:
        """Return the spatial and the temporal teacher's raw maps at the density's size."""
        size = batch["density"].shape[-2:]
        pair = batch["large_frame"], batch["large_other"]
        return [
            F.interpolate(teacher(*pair).float(), size=size, mode="bilinear", antialias=True)
            for teacher in (self.spatial, self.temporal)
        ]

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """Return the teachers' saliency maps (N, 1, R, R): the soft labels."""
        return [saliency(raw, self._head).clamp(max=1) for raw in self.raw(batch)]


class StudentDistillation(Stage):
    """Stage 1: each student learns from its own teacher's map and from the fixation density.

    The students share the trunk from the start: stage 2's network has one trunk only, and so takes
    both branches with the very features they were trained on. (The paper leaves open whose trunk is
    carried over.)
    """

    def __init__(self, recipe: Recipe, teachers: TeacherTraining | None) -> None:
        super().__init__(recipe, recipe.students)
        trunk = Trunk()
        self.spatial, self.temporal = SpatialStudent(trunk), TemporalStudent(trunk)
        self._mu = recipe.students.mu
        # In a list, so that the teachers are not this module's own: not trained, not averaged.
        self._teachers = [teachers.eval()] if teachers is not None and self._mu > 0 else []

    def loss(self, batch: Batch) -> Tensor:
        """Return mu * soft + (1 - mu) * hard, summed over both students (section III-B)."""
        pair = batch["frame"], batch["other"]
        raws = [self.spatial(*pair), self.temporal(*pair)]
        total = torch.zeros((), device=self.device)
        if self._teachers:
            teachers = self._teachers[0].to(self.device)
            soft = [self._loss(r, t) for r, t in zip(raws, teachers.maps(batch), strict=True)]
            total = total + self._mu * sum(soft)
        hard = hard_label(batch["density"])
        return total + (1 - self._mu) * sum(self._loss(raw, hard) for raw in raws)


class JointTransfer(Stage):
    """Stage 2: the spatiotemporal network, from the students' weights, on the hard label."""

    def __init__(self, recipe: Recipe, students: StudentDistillation | None) -> None:
        super().__init__(recipe, recipe.network)
        self.network = SpatiotemporalNetwork()
        if students is not None:
            self.network.take(students.spatial, students.temporal)
        self._frozen = (
            [self.network.trunk, self.network.spatial, self.network.temporal] if recipe.network.freeze else []
        )
        for part in self._frozen:
            part.requires_grad_(False)

    def on_train_start(self) -> None:
        """Keep the frozen parts' batch statistics as they are."""
        for part in self._frozen:
            part.eval()

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss on the fixation density."""
        return self._loss(self.network(batch["frame"], batch["other"]), hard_label(batch["density"]))


@dataclass(frozen=True)
class Progress:
    """Where a training is: told after each step."""

    stage: str
    step: int
    steps: int
    loss: float


def distil(
    recipe: Recipe, logs: Path | None = None, on_step: Callable[[Progress], None] = lambda p: None
) -> Student:
    """Train a student as the recipe says and return it in evaluation mode.

    `logs`: a folder for CSV logs, a sub-folder for each stage.

    Raises:
        InputError: ImageNet weights are asked for and not installed, or the loss is not finite.
    """
    _quiet()
    L.seed_everything(recipe.seed, verbose=False)
    teachers = TeacherTraining(recipe) if recipe.teachers.steps else None
    if teachers is not None:
        _fit("teachers", teachers, recipe, recipe.teachers, logs, on_step)
    students = StudentDistillation(recipe, teachers) if recipe.students.steps else None
    if students is not None:
        _fit("students", students, recipe, recipe.students, logs, on_step)
    joint = JointTransfer(recipe, students)
    if recipe.network.steps:
        _fit("network", joint, recipe, recipe.network, logs, on_step)
    trained = {"data": "made world", "recipe": recipe.model_dump(mode="json")}
    return Student(recipe.name, recipe.settings(), joint.network.eval(), trained)


_STAGES = ("teachers", "students", "network")


def _fit(
    name: str,
    stage: Stage,
    recipe: Recipe,
    table: StageTable,
    logs: Path | None,
    on_step: Callable[[Progress], None],
) -> None:
    teachers = name == "teachers" or (name == "students" and recipe.students.mu > 0)
    student, world = recipe.student, recipe.world
    # Each stage sees scenes of its own.
    stream = recipe.seed * len(_STAGES) + _STAGES.index(name)
    clips = MadeClips(world, student.resolution, student.pair, stream, teachers)
    loader = DataLoader(
        clips,
        batch_size=table.batch,
        num_workers=world.workers,
        multiprocessing_context=_fresh_processes() if world.workers else None,
        persistent_workers=world.workers > 0,
    )
    torch.set_num_threads(max(1, this_machine().cores - world.workers))
    callbacks: list[Callback] = [_Told(name, table.steps, on_step)]
    if table.average:
        callbacks.append(EMAWeightAveraging(decay=table.average))
    trainer = L.Trainer(
        max_steps=table.steps,
        devices=1,
        callbacks=callbacks,
        logger=CSVLogger(logs, name=name, version="") if logs else False,
        log_every_n_steps=max(1, min(10, table.steps // 20)),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision="bf16-mixed" if recipe.mixed else "32-true",
    )
    stage.to(memory_format=torch.channels_last)
    trainer.fit(stage, loader)
    stage.eval()


def _fresh_processes() -> BaseContext:
    """Return how workers start: not as copies of this process.

    A copy of OpenCV whose threads were left behind waits for them for ever. The server that workers
    are copied from has imported what they need, once for all stages.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.made"])
    return context


class _Told(Callback):
    def __init__(self, stage: str, steps: int, on_step: Callable[[Progress], None]) -> None:
        self._stage, self._steps, self._on_step = stage, steps, on_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        del pl_module, args
        self._on_step(Progress(self._stage, trainer.global_step, self._steps, float(outputs["loss"])))


def _quiet() -> None:
    for logger in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # One worker is what a small machine can spare, and IterableDataset has no length: both known.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
