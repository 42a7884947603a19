"""What recipes of every kind have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Steps = Annotated[int, Field(ge=0)]
BatchSize = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(ge=64, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Table(BaseModel):
    """Values of a recipe: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StageTable(Table):
    """One training stage. `steps` = 0 leaves it out."""

    steps: Steps
    batch: BatchSize
    rate: Rate = 1e-3
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """Adam at a constant rate; AdamW down a cosine; SGD in steps, as TinyHD's authors do."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are kept; 0 keeps the last step's."""


class Recipe(Table, ABC):
    """What every recipe has."""

    name: str
    seed: Annotated[int, Field(ge=0)]
    mixed: bool = False
    """Compute in bfloat16 where it is safe: twice as fast where hardware has it. TinyHD: GPUs alone."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes of each training process that make or decode samples."""

    @property
    @abstractmethod
    def stages(self) -> dict[str, StageTable]:
        """Return the stages in their order, those that are left out too."""
