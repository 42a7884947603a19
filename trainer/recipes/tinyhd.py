"""Recipe of TinyHD's hierarchical distillation, for TinyHD and streaming students."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge.inference.interface.recurrent_state import NOMINAL_FPS
from trainer.datasets.clips import UNLABELLED_KINDS
from trainer.models import streaming
from trainer.models.mobilenet3d import CLIP_FRAMES, SIDE_MULTIPLE, Reduction
from trainer.models.student import StreamingSettings, TinyHDSettings
from trainer.models.tinyhd import MAPS, Variant
from trainer.recipes.tables import ClipWorldTable, Recipe, StageTable, Table

ClipSide = Annotated[int, Field(ge=SIDE_MULTIPLE, le=4096, multiple_of=SIDE_MULTIPLE)]
Weight = Annotated[float, Field(ge=0)]


class TinyHDTable(Table):
    """TinyHD student to train."""

    kind: Literal["tinyhd"]
    variant: Variant
    rc: Reduction
    decoders: tuple[Literal["D1", "D2", "D3"], ...] = ("D1", "D2", "D3")
    height: ClipSide = 192
    width: ClipSide = 256
    imagenet: Path | None = None
    """File with torchvision's mobilenet_v2 weights, from which the students' encoders start."""

    @property
    def maps(self) -> int:
        """Return the number of maps per clip."""
        return MAPS[self.variant]

    def settings(self, rc: Reduction) -> TinyHDSettings:
        """Return the settings of the student, or of an assistant, with channel reduction `rc`."""
        return TinyHDSettings(self.variant, rc, self.decoders, self.height, self.width)


class StreamTable(Table):
    """Streaming student to train; training uses clips, with a map for each frame."""

    kind: Literal["stream"]
    rc: streaming.Reduction
    height: Literal[96, 192] = 192
    width: Literal[128, 256] = 256
    lag_s: Annotated[float, Field(ge=0, le=(CLIP_FRAMES - 1) / NOMINAL_FPS)] = 0.0
    """How many seconds earlier the aligned frame is. A training clip must contain it."""
    align: bool = False
    """Align an earlier frame with the current one. The difference of both joins the memories."""
    imagenet: bool = True
    """Start the encoders from EfficientNet-Lite0's published weights."""

    @property
    def maps(self) -> int:
        """Return the number of maps per clip."""
        return CLIP_FRAMES

    def settings(self, rc: Reduction) -> StreamingSettings:
        """Return the settings of the student, or of an assistant, with channel reduction `rc`."""
        return StreamingSettings(self.height, self.width, rc, self.lag_s, self.align)  # type: ignore[arg-type]  # checked there


class ClipDataTable(Table):
    """Source of the clips: simulated scenes, or a data set in its layout (docs/reference/data.md)."""

    kind: Literal["world", "avs1k", "dhf1k", "ucf-sports", "hollywood2", "videos", "bags"] = "world"
    root: Path | None = None
    split: Literal["train", "val", "test"] | None = None
    maps: Path | None = None
    """Maps by `aerogaze label`, or images, as densities of frames without one, such as unlabelled video."""
    auxiliary: Path | None = None
    """Tree of videos for the teacher's loss terms alone; each labelled clip is followed by one of these."""


class LongClipWorldTable(ClipWorldTable):
    """Simulated scenes that clips are drawn from; frames are at least as large as the student's."""

    frames: Annotated[int, Field(ge=1)] = 48
    """Consecutive frames of a clip; windows lie anywhere in them."""


class TeacherTable(StageTable):
    """Stage that trains the teacher HD2S on the ground truth."""

    supervision: Weight = 1.0
    """Weight of KL(truth, map) for each conspicuity map; with 0 these maps may come out inverted."""
    weights: Path | None = None
    """Teacher of an earlier run to start from: folder of the run, or its file teacher/done.pt."""


class DistilledTable(StageTable):
    """Stage in which a student learns from its teacher and the ground truth."""

    supervision: Weight = 0.0
    """Weight of KL(truth, map) for d2 and d3, 0.5 in the authors' option. Without teacher: for each map."""


class AssistantsTable(DistilledTable):
    """Stages of teacher assistants: the first learns from HD2S, each other from the one before."""

    rc: tuple[Reduction, ...]


class FinalTable(DistilledTable):
    """Stage of the student itself, the last one."""

    start: str | None = None
    """Student whose weights it starts from, such as an imported one; of the same network, at any size."""


class TinyHDRecipe(Recipe):
    """Recipe of TinyHD's method: teacher, assistants of larger width if any, student."""

    student: Annotated[TinyHDTable | StreamTable, Field(discriminator="kind")]
    data: ClipDataTable = ClipDataTable()
    world: LongClipWorldTable = LongClipWorldTable()
    teacher: TeacherTable | None = None
    """None: the first network learns from the ground truth alone."""
    assistants: AssistantsTable | None = None
    distillation: FinalTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the teacher, an assistant for each reduction, and the student."""
        assistants = self.assistants.rc if self.assistants else ()
        return {
            **({"teacher": self.teacher} if self.teacher else {}),
            **{f"assistant-rc{rc}": self.assistants for rc in assistants if self.assistants},
            "student": self.distillation,
        }

    @model_validator(mode="after")
    def _check_consistency(self) -> TinyHDRecipe:
        self._check_student()
        self._check_data()
        self._check_stages()
        return self

    def _check_student(self) -> None:
        student = self.student
        decoders = student.decoders if isinstance(student, TinyHDTable) else ("all",)
        if not decoders or len(set(decoders)) < len(decoders):
            raise ValueError("student.decoders must be one or more of D1, D2, D3, each once")
        if isinstance(student, StreamTable) and (student.height, student.width) not in streaming.SIZES:
            sizes = " or ".join(f"{h} x {w}" for h, w in streaming.SIZES)
            raise ValueError(f"student.height and student.width must be {sizes}")
        if isinstance(student, StreamTable) and bool(student.lag_s) != student.align:
            raise ValueError(
                "student.align needs student.lag_s, such as 0.3, and a streaming student has no other lag"
            )

    def _check_data(self) -> None:
        data, simulated = self.data, self.data.kind == "world"
        if simulated and (data.root or data.split or data.maps):
            raise ValueError(
                "data.root, data.split and data.maps need a data set: set data.kind, such as dhf1k"
            )
        if not simulated and not data.root:
            raise ValueError(f"data.kind {data.kind} needs data.root, the folder of the data set")
        unlabelled = data.kind in UNLABELLED_KINDS and not data.maps
        if (unlabelled or data.auxiliary) and not self.teacher:
            raise ValueError("videos have no ground truth: add the table teacher, or data.maps")
        if unlabelled and self.teacher and self.teacher.steps:
            raise ValueError(
                "videos have no ground truth to train the teacher on: set data.maps, or teacher.steps = 0 "
                "and teacher.weights"
            )
        if simulated and self.world.frames < CLIP_FRAMES:
            raise ValueError(f"world.frames must be {CLIP_FRAMES} or more, the frames of a clip")

    def _check_stages(self) -> None:
        rc = self.student.rc
        reductions = [*(self.assistants.rc if self.assistants else ()), rc]
        if self.teacher and not self.teacher.steps and not self.teacher.weights:
            raise ValueError("teacher.steps is 0, so teacher.weights must name a trained teacher")
        if self.assistants and not (self.assistants.rc and self.assistants.steps):
            raise ValueError("assistants need at least one rc, and steps; otherwise remove the table")
        if any(before >= after for before, after in pairwise(reductions)):
            raise ValueError(f"assistants.rc must increase and stay below the student's rc {rc}")
        if not self.distillation.steps:
            raise ValueError("distillation.steps is 0: nothing would be trained")
