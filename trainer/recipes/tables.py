"""Tables that recipes of every kind have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Steps = Annotated[int, Field(ge=0)]
BatchSize = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(ge=64, le=4096)]
"""Width or height of a frame in pixels."""
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Table(BaseModel):
    """Table of a recipe; unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StageTable(Table):
    """Settings of one training stage; `steps` = 0 leaves the stage out."""

    steps: Steps
    batch: BatchSize
    rate: Rate = 1e-3
    """Learning rate."""
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """Adam at a constant rate, AdamW with a cosine schedule, or SGD with step decay as in TinyHD."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps the weights of the last step."""


class Recipe(Table, ABC):
    """Base class of all recipes."""

    name: str
    seed: Annotated[int, Field(ge=0)]
    mixed: bool = False
    """Compute in bfloat16 where it is safe, which is twice as fast on hardware that supports it. TinyHD:
    only on GPUs."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that render or decode samples, per training process."""

    @property
    @abstractmethod
    def stages(self) -> dict[str, StageTable]:
        """Return the stages in their order, including those that are left out."""
