"""How an SKD student is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.losses import HEADS, Loss
from trainer.models.skd import RESOLUTIONS
from trainer.models.student import Pair, SkdSettings
from trainer.recipes.tables import Recipe, Side, StageTable, Table


class SkdTable(Table):
    """The SKD student to train."""

    kind: Literal["skd"] = "skd"
    resolution: int
    pair: Pair


class WorldTable(Table):
    """The made world that clips are drawn from."""

    width: Side = 256
    height: Side = 144
    pairs_per_scene: Annotated[int, Field(ge=1)] = 3
    buffer: Annotated[int, Field(ge=1)] = 4096
    """Rendered pairs to draw batches from, shared out to the workers: 0.9 GB at 256 x 144."""
    reuse: Annotated[int, Field(ge=1)] = 6
    """How often a rendered pair is drawn, on average."""


class TeachersTable(StageTable):
    """The spatial and the temporal teacher."""

    imagenet: bool = True
    """Start the encoders from ImageNet weights."""


class StudentsTable(StageTable):
    """Stage 1: the two students, from soft labels (teachers) and hard labels (fixation density)."""

    mu: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the soft label; 1 - mu of the hard one. 0 needs no teachers."""


class NetworkTable(StageTable):
    """Stage 2: the spatiotemporal network, from the students' weights, on the hard label."""

    freeze: bool = True
    """Train fusion and decoder only, as the authors do."""


class SkdRecipe(Recipe):
    """How an SKD student is trained: three stages on one stream of clips."""

    loss: Loss
    student: SkdTable
    world: WorldTable = WorldTable()
    teachers: TeachersTable
    students: StudentsTable
    network: NetworkTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the three stages."""
        return {"teachers": self.teachers, "students": self.students, "network": self.network}

    @model_validator(mode="after")
    def _fits(self) -> SkdRecipe:
        soft = self.students.steps > 0 and self.students.mu > 0
        if self.student.resolution not in RESOLUTIONS:
            raise ValueError(f"student.resolution must be one of {', '.join(map(str, RESOLUTIONS))}")
        if soft and not self.teachers.steps:
            raise ValueError("students.mu is above 0, but teachers.steps is 0: no soft labels to learn from")
        if self.teachers.steps and not soft:
            raise ValueError("teachers are trained, but no student learns from them: set teachers.steps = 0")
        if self.network.freeze and not self.students.steps:
            raise ValueError("network.freeze needs students to take the frozen parts from: set it to false")
        if not self.network.steps:
            raise ValueError("network.steps is 0: there would be nothing to keep")
        return self

    def settings(self) -> SkdSettings:
        """Return the student's settings."""
        return SkdSettings(self.student.resolution, self.student.pair, HEADS[self.loss])
