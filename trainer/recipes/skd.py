"""Recipe of SKD students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edge.release.manifest import MAX_LAG_S
from trainer.losses.saliency import HEAD_BY_LOSS, Loss
from trainer.models.skd import RESOLUTIONS
from trainer.models.student import Pair, SkdSettings
from trainer.recipes.tables import Recipe, Side, StageTable, Table, WorldTable


class SkdTable(Table):
    """SKD student to train."""

    kind: Literal["skd"] = "skd"
    resolution: int
    pair: Pair
    lag_s: Annotated[float, Field(ge=0, le=MAX_LAG_S)] = 0.0
    """Lag of "previous" in seconds; training varies it by a third."""
    align: bool = False
    """Align the previous frame with the current one first, so that only independent motion differs."""


class SkdDataTable(Table):
    """Data set on disk whose labelled frames replace the simulated scenes."""

    kind: str
    root: Path
    split: str | None = None
    maps: Path | None = None
    """Maps by `aerogaze label`, or images, as densities of frames without one, such as unlabelled video."""
    width: Side = 256
    """Width of the teachers' frames."""
    height: Side = 144
    """Height of the teachers' frames."""
    mirror: bool = True
    """Also train on each frame mirrored; the paper does not."""
    fps: Annotated[float, Field(gt=0, le=1000)] = 30.0
    """Frame rate of the clips, for a student whose lag is in seconds."""


class TeachersTable(StageTable):
    """Stage that trains the spatial and the temporal teacher."""

    imagenet: bool = True
    """Start the encoders from ImageNet weights."""


class MapsTable(Table):
    """Folders of precomputed teachers' maps: shards by `aerogaze label`, or images."""

    spatial: Path
    temporal: Path

    @model_validator(mode="before")
    @classmethod
    def _expand_single_folder(cls, value: Any) -> Any:
        """Use a single folder for both teachers."""
        return {"spatial": value, "temporal": value} if isinstance(value, (str, Path)) else value


class StudentsTable(StageTable):
    """Stage 1: two students learn from soft labels (teachers) and hard labels (fixation density)."""

    mu: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the soft label; the hard label has 1 - mu. 0 needs no teachers."""
    maps: MapsTable | None = None
    """Soft labels from disk instead of trained teachers: one folder, or one for each teacher."""


class NetworkTable(StageTable):
    """Stage 2: the spatiotemporal network starts from the students' weights and learns the hard label."""

    freeze: bool = True
    """Train only fusion and decoder, as the authors do."""
    start: str | None = None
    """Student, shipped or a file, of any resolution, whose weights replace those of stage 1."""
    merge: str | None = None
    """Student, shipped or a file, of the same settings, whose weights are averaged with the trained ones."""
    soft: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of soft labels; the hard label has 1 - soft."""
    taught_by: Literal["students", "teachers", "temporal"] = "students"
    """Source of the soft labels: the two students with half the weight each, the teachers' mean map, or the
    temporal teacher's map alone. The spatial teacher cannot know which of two equal targets moves."""

    @property
    def learns_from_teachers(self) -> bool:
        """Return whether the soft labels are maps of teachers."""
        return self.soft > 0 and self.taught_by != "students"


class SkdRecipe(Recipe):
    """Recipe of an SKD student with three stages: teachers, students, network."""

    loss: Loss
    student: SkdTable
    world: WorldTable = WorldTable()
    data: SkdDataTable | None = None
    teachers: TeachersTable
    students: StudentsTable
    network: NetworkTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the three stages."""
        return {"teachers": self.teachers, "students": self.students, "network": self.network}

    @model_validator(mode="after")
    def _check_consistency(self) -> SkdRecipe:
        self._check_student()
        self._check_soft_labels()
        if self.network.start and self.students.steps:
            raise ValueError("network.start replaces stage 1: set students.steps and students.mu to 0")
        if self.network.freeze and not (self.students.steps or self.network.start):
            raise ValueError("network.freeze needs students whose weights are frozen: set it to false")
        if not self.network.steps:
            raise ValueError("network.steps is 0: nothing would be trained")
        return self

    def _check_student(self) -> None:
        student = self.student
        if student.resolution not in RESOLUTIONS:
            raise ValueError(f"student.resolution must be one of {', '.join(map(str, RESOLUTIONS))}")
        if student.lag_s and student.pair == "next":
            raise ValueError('student.lag_s needs student.pair = "previous"')
        if student.align and not student.lag_s:
            raise ValueError("student.align needs student.lag_s, such as 0.4")
        if self.data and self.world != WorldTable():
            raise ValueError("data and world are both set: remove one, clips come from one source")

    def _check_soft_labels(self) -> None:
        students_learn = self.students.steps > 0 and self.students.mu > 0
        network_learns = self.network.learns_from_teachers
        maps = self.students.maps is not None
        if maps and not self.data:
            raise ValueError("students.maps needs data: simulated clips have no maps on disk")
        if maps and not students_learn:
            raise ValueError("students.maps is set, but no student learns from it: set students.mu above 0")
        if maps and self.teachers.steps:
            raise ValueError("students.maps replaces the trained teachers: set teachers.steps = 0")
        if self.network.soft and not network_learns and not self.students.steps:
            raise ValueError("network.soft needs students to learn from: set it to 0")
        if network_learns and not self.teachers.steps:
            raise ValueError("network.soft by teachers needs teachers: set teachers.steps")
        if students_learn and not maps and not self.teachers.steps:
            raise ValueError("students.mu is above 0, but teachers.steps is 0: no soft labels to learn from")
        if self.teachers.steps and not students_learn and not network_learns:
            raise ValueError("teachers are trained, but no student learns from them: set teachers.steps = 0")

    @property
    def teacher_size(self) -> tuple[int, int]:
        """Return width and height of the teachers' frames."""
        source = self.data or self.world
        return source.width, source.height

    def settings(self) -> SkdSettings:
        """Return the settings of the student."""
        student = self.student
        head = HEAD_BY_LOSS[self.loss]
        return SkdSettings(student.resolution, student.pair, head, student.lag_s, student.align)
