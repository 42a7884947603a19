"""SKD's distillation, in stages: teachers, stage 1 (two students), stage 2 (one network)."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from edge.core.errors import InputError
from trainer.data.labelled_pairs import LabelledPairs
from trainer.data.synthetic_pairs import SyntheticPairStream
from trainer.data.teacher_maps import TeacherKind, open_maps
from trainer.datasets.factory import open_dataset
from trainer.losses.saliency import LOSSES, hard_label
from trainer.models.skd import SpatialStudent, SpatiotemporalNetwork, TemporalStudent, Trunk
from trainer.models.student import SkdSettings, Student, as_skd, load_student, raw_to_saliency
from trainer.models.teacher import SpatialTeacher, TemporalTeacher
from trainer.recipes.loader import SkdRecipe
from trainer.training.loop import TrainingRun, fit, open_run
from trainer.training.stage import Batch, TrainingStage


class TeacherTraining(TrainingStage):
    """Both teachers on the hard label, from frames larger than the students'."""

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
        pair = batch["large_frame"], batch["large_other"]
        return [
            F.interpolate(teacher(*pair).float(), size=size, mode="bilinear", antialias=True)
            for teacher in (self.spatial, self.temporal)
        ]

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """Return the teachers' saliency maps (N, 1, R, R): the soft labels."""
        return [raw_to_saliency(raw, self._head).clamp(max=1) for raw in self.raw(batch)]


class StudentDistillation(TrainingStage):
    """Stage 1: each student learns from its own teacher's map and from the fixation density.

    The students share the trunk from the start: stage 2's network has one trunk only, and so takes
    both branches with the very features they were trained on. (The paper leaves open whose trunk is
    carried over.)
    """

    def __init__(self, recipe: SkdRecipe, teachers: TeacherTraining | None) -> None:
        super().__init__(recipe.students)
        self._loss, self._head = LOSSES[recipe.loss], recipe.settings().head
        trunk = Trunk()
        self.spatial, self.temporal = SpatialStudent(trunk), TemporalStudent(trunk, recipe.student.align)
        self._mu = recipe.students.mu
        # In a list, so that the teachers are not this module's own: not trained, not averaged.
        self._teachers = [teachers.eval()] if teachers is not None and self._mu > 0 else []
        self._from_disk = recipe.students.maps is not None

    def loss(self, batch: Batch) -> Tensor:
        """Return mu * soft + (1 - mu) * hard, summed over both students (section III-B)."""
        pair = batch["frame"], batch["other"]
        raws = [self.spatial(*pair), self.temporal(*pair)]
        total = torch.zeros((), device=self.device)
        if maps := self._soft_labels(batch):
            soft = [self._loss(r, t) for r, t in zip(raws, maps, strict=True)]
            total = total + self._mu * sum(soft)
        hard = hard_label(batch["density"])
        return total + (1 - self._mu) * sum(self._loss(raw, hard) for raw in raws)

    def _soft_labels(self, batch: Batch) -> list[Tensor]:
        if self._from_disk:
            return [batch["soft_spatial"], batch["soft_temporal"]]
        return self._teachers[0].to(self.device).maps(batch) if self._teachers else []

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """Return the students' saliency maps (N, 1, R, R): soft labels of stage 2."""
        pair = batch["frame"], batch["other"]
        raws = self.spatial(*pair), self.temporal(*pair)
        return [raw_to_saliency(raw.float(), self._head).clamp(max=1) for raw in raws]


def _check_start(recipe: SkdRecipe, start: SkdSettings) -> None:
    """See that what a network starts from can be gone on with."""
    ours, name = recipe.settings(), recipe.network.start
    if ours.head != start.head:
        raise InputError(
            f"network.start {name} has a {start.head} as its map, loss {recipe.loss} a {ours.head}"
        )
    if recipe.network.freeze and ours.align and not start.align:
        raise InputError(
            f"network.start {name} is not aligned: what an aligned one adds must learn: freeze = false"
        )


class JointTransfer(TrainingStage):
    """Stage 2: the spatiotemporal network, from the students' weights, on the hard label.

    With `soft` above 0 it also learns from both students' maps, half each: the abstract's "distilled
    from the two students"; section III-C carries weights over only. Or from the teachers' mean map, which is
    ours (docs/results.md says what that gives).
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
            self.network.load_overlapping_weights(network)
        # In lists: not this module's own.
        self._students: list[StudentDistillation] = []
        self._teachers: list[TeacherTraining] = []
        by_teachers = recipe.network.taught_by == "teachers"
        if self._soft and by_teachers and teachers is not None:
            self._teachers = [teachers.eval()]
        if students is not None:
            self.network.take(students.spatial, students.temporal)
            self._students = [students.eval()] if self._soft and not by_teachers else []
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
        """Return (1 - soft) * hard + soft * the mean over the students, or of the teachers' mean map."""
        raw = self.network(batch["frame"], batch["other"])
        total = (1 - self._soft) * self._loss(raw, hard_label(batch["density"]))
        for teachers in self._teachers:
            soft = torch.stack(teachers.to(self.device).maps(batch)).mean(dim=0)
            total = total + self._soft * self._loss(raw, soft)
        for students in self._students:
            spatial, temporal = students.to(self.device).maps(batch)
            total = total + self._soft * (self._loss(raw, spatial) + self._loss(raw, temporal)) / 2
        return total


def distil(recipe: SkdRecipe, run: TrainingRun | None = None) -> Student:
    """Train a student as the recipe says and return it in evaluation mode.

    Raises:
        InputError: data, maps, a start or ImageNet weights that are not there or do not fit, told before
            anything is kept; or as `open_run` and `fit` do.
    """
    L.seed_everything(recipe.seed, verbose=False)
    run_stages = [name for name, table in recipe.stages.items() if table.steps or name == "network"]
    samples = {name: _samples(name, recipe) for name in run_stages}
    if recipe.network.start:
        _check_start(recipe, as_skd(load_student(recipe.network.start))[0])
    teachers = TeacherTraining(recipe) if recipe.teachers.steps else None
    if run is not None:
        open_run(run, recipe)
    told: list[str] = []
    if teachers is not None:
        told.append(_fit("teachers", teachers, samples, recipe, run))
    students = StudentDistillation(recipe, teachers) if recipe.students.steps else None
    if students is not None:
        told.append(_fit("students", students, samples, recipe, run))
    joint = JointTransfer(recipe, students, teachers)
    told.append(_fit("network", joint, samples, recipe, run))
    trained = {"data": "; ".join(dict.fromkeys(told)), "recipe": recipe.model_dump(mode="json")}
    return Student(recipe.name, recipe.settings(), joint.network.eval(), trained)


_STAGES = ("teachers", "students", "network")


def _fit(
    name: str,
    stage: TrainingStage,
    samples: dict[str, SyntheticPairStream | LabelledPairs],
    recipe: SkdRecipe,
    run: TrainingRun | None,
) -> str:
    """Train the stage; return what its samples were."""
    fit(name, stage, samples[name], recipe, recipe.stages[name], run)
    mine = samples[name]
    return mine.summary() if isinstance(mine, LabelledPairs) else "made world"


def _samples(name: str, recipe: SkdRecipe) -> SyntheticPairStream | LabelledPairs:
    """Return a stage's samples: of the data set, or of scenes of its own in the made world."""
    maps = recipe.students.maps
    taught = recipe.network.soft > 0 and recipe.network.taught_by == "teachers"
    large = (
        name == "teachers"
        or (name == "students" and recipe.students.mu > 0 and maps is None)
        or (name == "network" and taught)
    )
    if recipe.data is None:
        stream = recipe.seed * len(_STAGES) + _STAGES.index(name)
        return SyntheticPairStream(recipe.world, recipe.settings(), stream, large)
    data = recipe.data
    folders: dict[TeacherKind, Path] = {}
    if name == "students" and maps is not None:
        folders = {"spatial": maps.spatial, "temporal": maps.temporal}
    dataset = open_dataset(data.kind, data.root, data.split)
    return LabelledPairs(
        dataset.with_maps(open_maps(data.maps)) if data.maps else dataset,
        recipe.settings(),
        recipe.teacher_size if large else None,
        {which: open_maps(folder, which) for which, folder in folders.items()},
        data.mirror,
        data.fps,
    )
