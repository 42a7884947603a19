"""How a trained student is tuned to int8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.recipes.tables import Recipe, Side, StageTable, Table


class QatTable(Table):
    """The student to tune, and the release that says where it is rounded."""

    kind: Literal["qat"] = "qat"
    weights: str
    """A student's file, or a shipped one's name."""
    release: str
    """A release's folder, with quantisation.json."""
    sha256: str = ""
    """Of weights and places: set when the training begins."""


class QatDataTable(Table):
    """Where frames come from: the made world, or a data set in its layout (docs/data.md), labelled or not."""

    kind: Literal["world", "avs1k", "dhf1k", "ucf-sports", "hollywood2", "videos"] = "world"
    root: Path | None = None
    split: Literal["train", "val", "test"] | None = None


class QatWorldTable(Table):
    """The made world's flights."""

    width: Side = 256
    height: Side = 144
    frames: Annotated[int, Field(ge=16)] = 16
    """Consecutive frames rendered of a scene; windows lie anywhere in them."""
    buffer: Annotated[int, Field(ge=1)] = 64
    """Flights to draw windows from, shared out to the workers."""
    reuse: Annotated[int, Field(ge=1)] = 8
    """How many windows are drawn from a flight, on average."""


class QatRecipe(Recipe):
    """One stage: the student through fake quantisation, taught by itself in fp32."""

    student: QatTable
    data: QatDataTable = QatDataTable()
    world: QatWorldTable = QatWorldTable()
    tuning: StageTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the one stage."""
        return {"tuning": self.tuning}

    @model_validator(mode="after")
    def _check_consistency(self) -> QatRecipe:
        world = self.data.kind == "world"
        if world and (self.data.root or self.data.split):
            raise ValueError("data.root and data.split are a data set's: set data.kind, as videos")
        if not world and not self.data.root:
            raise ValueError(f"data.kind {self.data.kind} needs data.root, the data set's folder")
        if not self.tuning.steps:
            raise ValueError("tuning.steps is 0: there would be nothing to keep")
        return self
