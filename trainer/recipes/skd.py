"""How an SKD student is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edge.release.manifest import MAX_LAG_S
from trainer.losses.saliency import HEAD_BY_LOSS, Loss
from trainer.models.skd import RESOLUTIONS
from trainer.models.student import Pair, SkdSettings
from trainer.recipes.tables import Recipe, Share, Side, StageTable, Table


class SkdTable(Table):
    """The SKD student to train."""

    kind: Literal["skd"] = "skd"
    resolution: int
    pair: Pair
    lag_s: Annotated[float, Field(ge=0, le=MAX_LAG_S)] = 0.0
    """How far back "previous" reaches; training varies it by a third."""
    align: bool = False
    """Move the previous frame onto the new one first: only what moves by itself differs then."""


class SkdWorldTable(Table):
    """The made world that clips are drawn from."""

    width: Side = 256
    height: Side = 144
    pairs_per_scene: Annotated[int, Field(ge=1)] = 3
    buffer: Annotated[int, Field(ge=1)] = 4096
    """Rendered pairs to draw batches from, shared out to the workers: 0.9 GB at 256 x 144."""
    reuse: Annotated[int, Field(ge=1)] = 6
    """How often a rendered pair is drawn, on average."""
    twins: Share = 0.0
    """Share of scenes with identical twins of which one moves."""


class SkdDataTable(Table):
    """A data set on disk that replaces the made world: its labelled frames."""

    kind: str
    root: Path
    split: str | None = None
    maps: Path | None = None
    """Maps by `aerogaze label`, or images, for the densities of frames that have none: unlabelled video."""
    width: Side = 256
    height: Side = 144
    """Of the teachers' frames."""
    mirror: bool = True
    """Train on each frame's mirror image too; the paper does not."""
    fps: Annotated[float, Field(gt=0, le=1000)] = 30.0
    """The clips' frame rate, for a student that looks back by seconds."""


class TeachersTable(StageTable):
    """The spatial and the temporal teacher."""

    imagenet: bool = True
    """Start the encoders from ImageNet weights."""


class MapsTable(Table):
    """Folders of teachers' maps made before: shards by `aerogaze label`, or images."""

    spatial: Path
    temporal: Path

    @model_validator(mode="before")
    @classmethod
    def _both(cls, value: Any) -> Any:
        """Take one folder as both teachers'."""
        return {"spatial": value, "temporal": value} if isinstance(value, (str, Path)) else value


class StudentsTable(StageTable):
    """Stage 1: the two students, from soft labels (teachers) and hard labels (fixation density)."""

    mu: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the soft label; 1 - mu of the hard one. 0 needs no teachers."""
    maps: MapsTable | None = None
    """Soft labels from disk instead of trained teachers: one folder, or one for each teacher."""


class NetworkTable(StageTable):
    """Stage 2: the spatiotemporal network, from the students' weights, on the hard label."""

    freeze: bool = True
    """Train fusion and decoder only, as the authors do."""
    start: str | None = None
    """A student, shipped or a file, whose weights it starts from instead; it may be of any resolution."""
    soft: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of soft labels; 1 - soft of the hard label."""
    taught_by: Literal["students", "teachers"] = "students"
    """Whose maps these are: the two students', half each, or the mean of the two teachers'."""


class SkdRecipe(Recipe):
    """How an SKD student is trained: three stages on one stream of clips."""

    loss: Loss
    student: SkdTable
    world: SkdWorldTable = SkdWorldTable()
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
        soft = self.students.steps > 0 and self.students.mu > 0
        if self.student.resolution not in RESOLUTIONS:
            raise ValueError(f"student.resolution must be one of {', '.join(map(str, RESOLUTIONS))}")
        if self.student.lag_s and self.student.pair == "next":
            raise ValueError('student.lag_s needs student.pair = "previous"')
        if self.student.align and not self.student.lag_s:
            raise ValueError("student.align needs student.lag_s, as 0.4")
        maps = self.students.maps is not None
        if self.data and self.world != SkdWorldTable():
            raise ValueError("data and world are both set: leave out one, clips come from one place")
        if maps and not self.data:
            raise ValueError("students.maps needs data: the made world's clips have no maps on disk")
        if maps and not soft:
            raise ValueError("students.maps is given, but no student learns from it: set students.mu above 0")
        if maps and self.teachers.steps:
            raise ValueError("students.maps takes the trained teachers' place: set teachers.steps = 0")
        by_teachers = self.network.soft > 0 and self.network.taught_by == "teachers"
        if self.network.soft and not by_teachers and not self.students.steps:
            raise ValueError("network.soft needs students to learn from: set it to 0")
        if by_teachers and not self.teachers.steps:
            raise ValueError("network.soft by teachers needs teachers: set teachers.steps")
        if soft and not maps and not self.teachers.steps:
            raise ValueError("students.mu is above 0, but teachers.steps is 0: no soft labels to learn from")
        if self.teachers.steps and not soft and not by_teachers:
            raise ValueError("teachers are trained, but no student learns from them: set teachers.steps = 0")
        if self.network.start and self.students.steps:
            raise ValueError("network.start takes the place of stage 1: set students.steps and mu to 0")
        if self.network.freeze and not (self.students.steps or self.network.start):
            raise ValueError("network.freeze needs students to take the frozen parts from: set it to false")
        if not self.network.steps:
            raise ValueError("network.steps is 0: there would be nothing to keep")
        return self

    @property
    def teacher_size(self) -> tuple[int, int]:
        """Return the teachers' frames' width and height."""
        source = self.data or self.world
        return source.width, source.height

    def settings(self) -> SkdSettings:
        """Return the student's settings."""
        student = self.student
        return SkdSettings(
            student.resolution, student.pair, HEAD_BY_LOSS[self.loss], student.lag_s, student.align
        )
