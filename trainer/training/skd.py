"""Distillation of SKD students in three stages: teachers, two students (stage 1), one network (stage 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.core.errors import InputError
from trainer.data.labelled_pairs import LabelledPairs
from trainer.data.scene_pool import SYNTHETIC_DATA, ScenePool
from trainer.data.soft_labels import SoftLabels, label_pool
from trainer.data.synthetic_pairs import SyntheticPairs
from trainer.data.teacher_maps import TeacherKind, open_maps
from trainer.datasets.factory import open_dataset
from trainer.losses.saliency import LOSSES, hard_label
from trainer.models.skd import (
    SpatialStudent,
    SpatiotemporalNetwork,
    TemporalStudent,
    Trunk,
    load_overlapping_weights,
)
from trainer.models.student import SkdSettings, Student, as_skd, load_student, raw_to_saliency
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes.loader import SkdRecipe
from trainer.training.loop import TrainingRun, fit, open_run
from trainer.training.pool import open_scenes
from trainer.training.stage import Batch, TrainingStage

_STAGES = ("teachers", "students", "network")


class TeacherTraining(TrainingStage):
    """Stage that trains both teachers on the hard label, with larger frames than the students' ones."""

    def __init__(self, recipe: SkdRecipe) -> None:
        super().__init__(recipe.teachers)
        self._loss, self._head = LOSSES[recipe.loss], recipe.settings().head
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
        return [
            F.interpolate(raw, size=size, mode="bilinear", antialias=True)
            for raw in self._full_raw(batch["large_frame"], batch["large_other"])
        ]

    def _full_raw(self, frame: Tensor, other: Tensor) -> list[Tensor]:
        return [teacher(frame, other).float() for teacher in (self.spatial, self.temporal)]

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """Return the teachers' saliency maps (N, 1, R, R), which are soft labels."""
        return [self._to_label(raw) for raw in self.raw(batch)]

    @torch.no_grad()
    def full_maps(self, frame: Tensor, other: Tensor) -> Tensor:
        """Return both teachers' saliency maps (N, 2, H/2, W/2) of large frames and their neighbours."""
        return torch.cat([self._to_label(raw) for raw in self._full_raw(frame, other)], dim=1)

    def _to_label(self, raw: Tensor) -> Tensor:
        return raw_to_saliency(raw, self._head).clamp(max=1)


class StudentDistillation(TrainingStage):
    """Stage 1: each student learns from the map of its teacher and from the fixation density.

    The students share one trunk, because the network of stage 2 has only one. So it gets both branches with
    exactly the features they were trained on. (The paper does not say whose trunk is copied.)

    Args:
        recipe: Recipe of the student.
        teachers: Trained teachers, or None if their maps are on disk or not used.
    """

    def __init__(self, recipe: SkdRecipe, teachers: TeacherTraining | None) -> None:
        super().__init__(recipe.students)
        self._loss, self._head = LOSSES[recipe.loss], recipe.settings().head
        trunk = Trunk()
        self.spatial, self.temporal = SpatialStudent(trunk), TemporalStudent(trunk, recipe.student.align)
        self._mu = recipe.students.mu
        # A list hides the teachers from torch, so that they are neither trained nor averaged.
        self._teachers = [teachers.eval()] if teachers is not None and self._mu > 0 else []

    def loss(self, batch: Batch) -> Tensor:
        """Return mu * soft + (1 - mu) * hard, summed over both students (section III-B)."""
        pair = batch["frame"], batch["other"]
        raws = [self.spatial(*pair), self.temporal(*pair)]
        total = torch.zeros((), device=self.device)
        if self._mu > 0:
            maps = _soft_labels(batch, self._teachers)
            soft = [self._loss(raw, target) for raw, target in zip(raws, maps, strict=True)]
            total = total + self._mu * sum(soft)
        hard = hard_label(batch["density"])
        return total + (1 - self._mu) * sum(self._loss(raw, hard) for raw in raws)

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """Return the students' saliency maps (N, 1, R, R), which are soft labels of stage 2."""
        pair = batch["frame"], batch["other"]
        raws = self.spatial(*pair), self.temporal(*pair)
        return [raw_to_saliency(raw.float(), self._head).clamp(max=1) for raw in raws]


def _soft_labels(batch: Batch, teachers: Sequence[TeacherTraining]) -> list[Tensor]:
    """Return both teachers' maps (N, 1, R, R): those of the batch, otherwise those that they compute now."""
    if "soft_spatial" in batch:
        return [batch["soft_spatial"], batch["soft_temporal"]]
    return teachers[0].to(batch["frame"].device).maps(batch)


def _check_start(recipe: SkdRecipe, start: SkdSettings) -> None:
    """Check that the network can start from a student with the settings `start`."""
    settings, name = recipe.settings(), recipe.network.start
    if settings.head != start.head:
        raise InputError(
            f"network.start {name}: its map is a {start.head}, but loss {recipe.loss} needs a "
            f"{settings.head}; start from another student, or change the loss"
        )
    if recipe.network.freeze and settings.align and not start.align:
        raise InputError(
            f"network.start {name} is not aligned, but the inputs that alignment adds must be trained: "
            "set network.freeze = false"
        )


def _load_merged(recipe: SkdRecipe) -> SpatiotemporalNetwork | None:
    """Return the network that the trained one is averaged with, if the recipe names one."""
    name = recipe.network.merge
    if name is None:
        return None
    settings, network = as_skd(load_student(name))
    if settings != recipe.settings():
        raise InputError(
            f"network.merge {name} has other settings ({settings}) than this recipe ({recipe.settings()}): "
            "only weights of the same network can be averaged: name another student"
        )
    return network


def _average_weights(network: SpatiotemporalNetwork, other: SpatiotemporalNetwork) -> None:
    """Replace the weights of a network by their mean with those of another network.

    Networks that were trained further from the same weights can be averaged, and the mean often holds on more
    kinds of data than either: Wortsman et al., "Model soups", ICML 2022.
    """
    others = other.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_((value + others[name].to(value.device)) / 2)


class JointTransfer(TrainingStage):
    """Stage 2: the spatiotemporal network starts from the students' weights and learns the hard label.

    With `soft` above 0 it also learns from the maps of both students with half the weight each: the abstract
    says "distilled from the two students", but section III-C only copies weights. Or it learns from the
    teachers' mean map, which is our addition (docs/explanation/results.md has the effect).

    Args:
        recipe: Recipe of the student.
        students: Trained students, or None to start from another student or from random weights.
        teachers: Trained teachers, or None if their maps are not used.
    """

    def __init__(
        self,
        recipe: SkdRecipe,
        students: StudentDistillation | None,
        teachers: TeacherTraining | None = None,
    ) -> None:
        super().__init__(recipe.network)
        self._loss, self._head = LOSSES[recipe.loss], recipe.settings().head
        self.network = SpatiotemporalNetwork(recipe.student.align)
        self._soft = recipe.network.soft
        if recipe.network.start:
            _, network = as_skd(load_student(recipe.network.start))
            load_overlapping_weights(self.network, network)
        # Lists hide these modules from torch, so that they are neither trained nor averaged.
        self._students: list[StudentDistillation] = []
        self._teachers: list[TeacherTraining] = []
        self._learns_from_teachers = recipe.network.learns_from_teachers
        self._by_temporal_teacher = recipe.network.taught_by == "temporal"
        if self._learns_from_teachers and teachers is not None:
            self._teachers = [teachers.eval()]
        if students is not None:
            self.network.copy_branches(students.spatial, students.temporal)
            self._students = [students.eval()] if self._soft and not self._learns_from_teachers else []
        self._frozen = (
            [self.network.trunk, self.network.spatial, self.network.temporal] if recipe.network.freeze else []
        )
        for part in self._frozen:
            part.requires_grad_(False)

    def on_train_start(self) -> None:
        """Keep the batch norm statistics of the frozen parts."""
        for part in self._frozen:
            part.eval()

    def loss(self, batch: Batch) -> Tensor:
        """Return (1 - soft) * hard + soft * the mean loss to the students' maps or the teachers' mean map."""
        raw = self.network(batch["frame"], batch["other"])
        total = (1 - self._soft) * self._loss(raw, hard_label(batch["density"]))
        if self._learns_from_teachers:
            spatial, temporal = _soft_labels(batch, self._teachers)
            soft = temporal if self._by_temporal_teacher else (spatial + temporal) / 2
            total = total + self._soft * self._loss(raw, soft)
        for students in self._students:
            spatial, temporal = students.to(self.device).maps(batch)
            total = total + self._soft * (self._loss(raw, spatial) + self._loss(raw, temporal)) / 2
        return total


def distil(recipe: SkdRecipe, run: TrainingRun | None = None) -> Student:
    """Train an SKD student and return it in evaluation mode.

    Args:
        recipe: Recipe of the student.
        run: Where to store checkpoints; None stores nothing.

    Raises:
        InputError: Data, maps, a student to start from or ImageNet weights are missing or do not fit, found
            before anything is stored; see also `open_run` and `fit`.
    """
    if recipe.network.start:
        _check_start(recipe, as_skd(load_student(recipe.network.start))[0])
    merged = _load_merged(recipe)
    run = run or TrainingRun()
    _seed(recipe, "teachers")
    teachers = TeacherTraining(recipe) if recipe.teachers.steps else None
    stage_names = [name for name, table in recipe.stages.items() if table.steps or name == "network"]
    pool = open_scenes(recipe, recipe.world, run) if recipe.data is None else None
    samples = {name: _samples(name, recipe, pool) for name in stage_names}
    open_run(run, recipe)
    data: list[str] = []
    with ExitStack() as stack:
        if teachers is not None:
            data.append(_fit("teachers", teachers, samples, recipe, run))
            if pool is not None:
                folder = run.folder or Path(stack.enter_context(TemporaryDirectory(prefix="aerogaze-")))
                labels = _label_pool(pool, teachers, recipe, folder / "teachers", run)
                samples = {name: _samples(name, recipe, pool, labels) for name in stage_names}
        _seed(recipe, "students")
        students = StudentDistillation(recipe, teachers) if recipe.students.steps else None
        if students is not None:
            data.append(_fit("students", students, samples, recipe, run))
        _seed(recipe, "network")
        joint = JointTransfer(recipe, students, teachers)
        data.append(_fit("network", joint, samples, recipe, run))
    if merged is not None:
        _average_weights(joint.network, merged)
    trained = {"data": "; ".join(dict.fromkeys(data)), "recipe": recipe.model_dump(mode="json")}
    return Student(recipe.name, recipe.settings(), joint.network.eval(), trained)


def _seed(recipe: SkdRecipe, stage: str) -> None:
    """Seed the weights of a stage, so that they do not depend on whether stages before it were resumed."""
    L.seed_everything(recipe.seed * len(_STAGES) + _STAGES.index(stage), verbose=False)


def _label_pool(
    pool: ScenePool, teachers: TeacherTraining, recipe: SkdRecipe, folder: Path, run: TrainingRun
) -> SoftLabels:
    """Return the soft labels of trained teachers, in a folder for these weights and these scenes."""
    digest = hashlib.sha256(pool.settings.key.encode())
    for value in teachers.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().tobytes())
    device, memory_format = "cuda" if torch.cuda.is_available() else "cpu", teachers.memory_format
    teachers.to(device).to(memory_format=memory_format)

    @torch.no_grad()
    def compute_maps(frame: Tensor, other: Tensor) -> Tensor:
        pair = (image.to(device, memory_format=memory_format) for image in (frame, other))
        with torch.autocast(device, torch.bfloat16, enabled=recipe.mixed):
            return teachers.full_maps(*pair)

    path = folder / f"maps-{digest.hexdigest()[:12]}"
    return label_pool(pool, recipe.settings(), compute_maps, path, run.on_labels, min(1, recipe.workers))


def _fit(
    name: str,
    stage: TrainingStage,
    samples: dict[str, SyntheticPairs | LabelledPairs],
    recipe: SkdRecipe,
    run: TrainingRun,
) -> str:
    """Train a stage and return a description of its samples."""
    fit(name, stage, samples[name], recipe, recipe.stages[name], run)
    stage_samples = samples[name]
    return stage_samples.summary() if isinstance(stage_samples, LabelledPairs) else SYNTHETIC_DATA


def _samples(
    name: str, recipe: SkdRecipe, pool: ScenePool | None = None, labels: SoftLabels | None = None
) -> SyntheticPairs | LabelledPairs:
    """Return the samples of a stage: of the pool or of the data set, with what soft labels are made of."""
    maps = recipe.students.maps
    needs_labels = (name == "students" and recipe.students.mu > 0 and maps is None) or (
        name == "network" and recipe.network.learns_from_teachers
    )
    large = name == "teachers" or (needs_labels and labels is None)
    if pool is not None:
        stream = recipe.seed * len(_STAGES) + _STAGES.index(name)
        # Only scenes with targets get the teachers' maps, so the teachers learn from these alone.
        world = recipe.world.model_copy(update={"empty": 0.0}) if name == "teachers" else recipe.world
        return SyntheticPairs(pool, world, recipe.settings(), stream, large, labels if needs_labels else None)
    data = recipe.data
    assert data is not None
    folders: dict[TeacherKind, Path] = {}
    if name == "students" and maps is not None:
        folders = {"spatial": maps.spatial, "temporal": maps.temporal}
    dataset = open_dataset(data.kind, data.root, data.split)
    return LabelledPairs(
        dataset.with_maps(open_maps(data.maps)) if data.maps else dataset,
        recipe.settings(),
        recipe.teacher_size if large else None,
        {teacher: open_maps(folder, teacher) for teacher, folder in folders.items()},
        data.mirror,
        data.fps,
    )
