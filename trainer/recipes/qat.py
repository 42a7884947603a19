"""Recipe of quantization-aware training, which tunes a trained student for int8."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from trainer.recipes.tables import ClipWorldTable, Recipe, StageTable, Table


class QatTable(Table):
    """Student to tune, and the release that says where the student is quantized."""

    kind: Literal["qat"] = "qat"
    weights: str
    """File of a student, or name of a shipped student."""
    release: str
    """Folder of a release with quantisation.json."""
    sha256: str = ""
    """Digest of the weights and of the Q/DQ placement; set when training starts."""


class QatDataTable(Table):
    """Source of the frames: simulated scenes, or a data set (docs/reference/data.md), labelled or not."""

    kind: Literal["world", "avs1k", "dhf1k", "ucf-sports", "hollywood2", "videos", "bags"] = "world"
    root: Path | None = None
    split: Literal["train", "val", "test"] | None = None


class QatRecipe(Recipe):
    """Recipe with one stage: the student with fake quantization learns from itself in fp32."""

    student: QatTable
    data: QatDataTable = QatDataTable()
    world: ClipWorldTable = ClipWorldTable()
    tuning: StageTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the only stage."""
        return {"tuning": self.tuning}

    @model_validator(mode="after")
    def _check_consistency(self) -> QatRecipe:
        simulated = self.data.kind == "world"
        if simulated and (self.data.root or self.data.split):
            raise ValueError("data.root and data.split need a data set: set data.kind, such as videos")
        if not simulated and not self.data.root:
            raise ValueError(f"data.kind {self.data.kind} needs data.root, the folder of the data set")
        if not self.tuning.steps:
            raise ValueError("tuning.steps is 0: nothing would be trained")
        return self
