"""How TinyHD's students, and our streaming one, are trained by hierarchical distillation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer.models import streaming
from trainer.models.mobilenet3d import CLIP_FRAMES, SIDE_MULTIPLE, Reduction
from trainer.models.student import StreamingSettings, TinyHDSettings
from trainer.models.tinyhd import MAPS, Variant
from trainer.recipes.tables import Recipe, StageTable, Table

ClipSide = Annotated[int, Field(ge=SIDE_MULTIPLE, le=4096, multiple_of=SIDE_MULTIPLE)]
Weight = Annotated[float, Field(ge=0)]


class TinyHDTable(Table):
    """The TinyHD student to train."""

    kind: Literal["tinyhd"]
    variant: Variant
    rc: Reduction
    decoders: tuple[Literal["D1", "D2", "D3"], ...] = ("D1", "D2", "D3")
    height: ClipSide = 192
    width: ClipSide = 256
    imagenet: Path | None = None
    """A file with torchvision's mobilenet_v2 weights that students' encoders start from."""

    @property
    def maps(self) -> int:
        """Return how many maps the student gives of a clip."""
        return MAPS[self.variant]

    def settings(self, rc: Reduction) -> TinyHDSettings:
        """Return the settings of the student, or of its assistant, of that rc."""
        return TinyHDSettings(self.variant, rc, self.decoders, self.height, self.width)


class StreamTable(Table):
    """The streaming student to train: on clips in parallel, a map for each frame."""

    kind: Literal["stream"]
    rc: streaming.Reduction
    height: Literal[96, 192] = 192
    width: Literal[128, 256] = 256
    imagenet: bool = True
    """Start encoders from EfficientNet-Lite0's published weights."""

    @property
    def maps(self) -> int:
        """Return how many maps the student gives of a clip."""
        return CLIP_FRAMES

    def settings(self, rc: Reduction) -> StreamingSettings:
        """Return the settings of the student, or of its assistant, of that rc."""
        return StreamingSettings(self.height, self.width, rc)  # type: ignore[arg-type]  # checked there


class ClipDataTable(Table):
    """Where clips come from: the made world, or a data set in its layout (docs/data.md)."""

    kind: Literal["world", "avs1k", "dhf1k", "ucf-sports", "hollywood2", "videos"] = "world"
    root: Path | None = None
    split: Literal["train", "val", "test"] | None = None
    maps: Path | None = None
    """Maps by `aerogaze label`, or images, for the densities of frames that have none: unlabelled video."""
    auxiliary: Path | None = None
    """A tree of video: as many of its clips as labelled ones, for the teacher's terms alone."""


class ClipWorldTable(Table):
    """The made world's flights, at the student's size."""

    frames: Annotated[int, Field(ge=1)] = 48
    """Consecutive frames rendered of a scene; clips lie anywhere in them."""
    buffer: Annotated[int, Field(ge=1)] = 64
    """Flights to draw clips from, shared out to the workers: .8 GB at 192 x 256."""
    reuse: Annotated[int, Field(ge=1)] = 12
    """How many clips are drawn from a flight, on average."""


class TeacherTable(StageTable):
    """HD2S, on the truth."""

    supervision: Weight = 1.0
    """Weight of KL(truth, map) of each conspicuity map; at 0 they may come out inverted."""
    weights: Path | None = None
    """Start from the teacher of an earlier run: its folder, or the file teacher/done.pt in it."""


class DistilledTable(StageTable):
    """A student, from its teacher and the truth."""

    supervision: Weight = 0.0
    """Weight of KL(truth, map) of d2 and of d3; the authors' option is .5. Without teacher, of each map."""


class AssistantsTable(DistilledTable):
    """Teacher assistants, one after the other, each taught by the one before; the first by HD2S."""

    rc: tuple[Reduction, ...]


class TinyHDRecipe(Recipe):
    """How a student is trained by TinyHD's method: teacher, assistants of larger width if any, student."""

    student: Annotated[TinyHDTable | StreamTable, Field(discriminator="kind")]
    data: ClipDataTable = ClipDataTable()
    world: ClipWorldTable = ClipWorldTable()
    teacher: TeacherTable | None = None
    """None: the first network learns from the truth alone."""
    assistants: AssistantsTable | None = None
    distillation: DistilledTable

    @property
    def stages(self) -> dict[str, StageTable]:
        """Return the teacher, an assistant for each of their rc, and the student."""
        assistants = self.assistants.rc if self.assistants else ()
        return {
            **({"teacher": self.teacher} if self.teacher else {}),
            **{f"assistant-rc{rc}": self.assistants for rc in assistants if self.assistants},
            "student": self.distillation,
        }

    @model_validator(mode="after")
    def _check_consistency(self) -> TinyHDRecipe:
        student, data, world = self.student, self.data, self.data.kind == "world"
        chain = [*(self.assistants.rc if self.assistants else ()), student.rc]
        decoders = student.decoders if isinstance(student, TinyHDTable) else ("all",)
        if not decoders or len(set(decoders)) < len(decoders):
            raise ValueError("student.decoders must be one or more of D1, D2, D3, each once")
        if isinstance(student, StreamTable) and (student.height, student.width) not in streaming.SIZES:
            sizes = " or ".join(f"{h} x {w}" for h, w in streaming.SIZES)
            raise ValueError(f"student.height and student.width must be {sizes}")
        if world and (data.root or data.split or data.maps):
            raise ValueError("data.root, data.split and data.maps are a data set's: set data.kind, as dhf1k")
        if not world and not data.root:
            raise ValueError(f"data.kind {data.kind} needs data.root, the folder that holds the data set")
        bare = data.kind == "videos" and not data.maps
        if (bare or data.auxiliary) and not self.teacher:
            raise ValueError("videos have no truth to learn from: add the table teacher, or data.maps")
        if bare and self.teacher and self.teacher.steps:
            raise ValueError(
                "videos have no truth to train the teacher on: set data.maps, or teacher.steps = 0 and "
                "teacher.weights"
            )
        if self.teacher and not self.teacher.steps and not self.teacher.weights:
            raise ValueError("teacher.steps is 0, and teacher.weights names no teacher trained before")
        if self.assistants and not (self.assistants.rc and self.assistants.steps):
            raise ValueError("assistants need one rc or more, and steps; else leave the table out")
        if any(wide >= narrow for wide, narrow in pairwise(chain)):
            raise ValueError(f"assistants.rc must rise, and stay below the student's rc {student.rc}")
        if not self.distillation.steps:
            raise ValueError("distillation.steps is 0: there would be nothing to keep")
        if world and self.world.frames < CLIP_FRAMES:
            raise ValueError(f"world.frames must be {CLIP_FRAMES} or more, the frames of a clip")
        return self
