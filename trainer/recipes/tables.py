"""Tables that recipes of every kind have."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge.simulation.kinds.catalogue import KINDS

Steps = Annotated[int, Field(ge=0)]
BatchSize = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(ge=64, le=4096)]
"""Width or height of a frame in pixels."""
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


MAX_SCENES = 2250
"""Scenes of a pool unless the recipe says more: 2.8 GB at 256 x 144."""
OLD_KEYS = ("pairs_per_scene", "buffer", "reuse")
"""Keys of the table `world` in older versions."""


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


class WorldTable(Table):
    """Simulated scenes, rendered once into a pool on disk that all recipes with these settings share."""

    samples_per_scene: ClassVar[int] = 18
    """Samples that are drawn from a scene on average, where the number of scenes is not set."""

    width: Side = 256
    height: Side = 144
    frames: Annotated[int, Field(ge=16)] = 16
    """Consecutive frames of a clip; a third of the scenes has one, the others have pairs of frames."""
    scenes: Annotated[int, Field(ge=1)] | None = None
    """Scenes of the pool. None: one for each `samples_per_scene` samples, at most `MAX_SCENES`."""
    twins: Share = 0.0
    """Share of samples from scenes with two identical targets of which one moves."""
    empty: Share = 0.0
    """Share of samples from scenes without targets, where a map should be wide. As many scenes, relative to
    `scenes`, are added to the pool."""
    kind: str = ""
    """Kind of the scenes, such as "varied", which has many more distractors; "" for plain scenes."""
    augment: bool = True
    """Vary crop, colours and noise of the frames at random."""

    @model_validator(mode="before")
    @classmethod
    def _drop_old_keys(cls, value: Any) -> Any:
        """Drop the keys of versions that rendered while they trained."""
        return {k: v for k, v in value.items() if k not in OLD_KEYS} if isinstance(value, dict) else value

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, value: str) -> str:
        if value and value not in KINDS:
            raise ValueError(f"expected one of {', '.join(KINDS)}")
        return value

    def count_scenes(self, samples: int) -> int:
        """Return the number of scenes for a training that draws `samples` samples."""
        return self.scenes or max(1, min(MAX_SCENES, samples // self.samples_per_scene))

    def count_empty_scenes(self, samples: int) -> int:
        """Return the number of scenes without targets for a training that draws `samples` samples."""
        return math.ceil(self.empty * self.count_scenes(samples))


class ClipWorldTable(WorldTable):
    """Simulated scenes for networks that take clips, which only a third of the scenes has."""

    samples_per_scene: ClassVar[int] = 2


class Recipe(Table, ABC):
    """Base class of all recipes."""

    name: str
    seed: Annotated[int, Field(ge=0)]
    mixed: bool = False
    """Compute in bfloat16 where it is safe, which is twice as fast on hardware that supports it. TinyHD:
    only on GPUs."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that draw or decode samples, per training process."""

    @property
    @abstractmethod
    def stages(self) -> dict[str, StageTable]:
        """Return the stages in their order, including those that are left out."""

    @property
    def samples(self) -> int:
        """Return the number of samples that all stages together are trained on."""
        return sum(table.steps * table.batch for table in self.stages.values())
