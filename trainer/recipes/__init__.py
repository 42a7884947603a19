"""Recipes: how a student is trained, as TOML, checked on load."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.errors import InputError
from edge.release import LONGEST_LAG_S
from trainer.losses import HEADS, Loss
from trainer.models.skd import RESOLUTIONS
from trainer.models.student import Pair, SkdSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent

Steps = Annotated[int, Field(ge=0)]
Batch = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(ge=64, le=4096)]
Rate = Annotated[float, Field(gt=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkdTable(_Table):
    """The SKD student to train."""

    kind: Literal["skd"] = "skd"
    resolution: int
    pair: Pair
    lag_s: Annotated[float, Field(ge=0, le=LONGEST_LAG_S)] = 0.0
    """How far back "previous" reaches; training varies it by a third."""


class WorldTable(_Table):
    """The made world that clips are drawn from."""

    width: Side = 256
    height: Side = 144
    pairs_per_scene: Annotated[int, Field(ge=1)] = 3
    buffer: Annotated[int, Field(ge=1)] = 4096
    """Rendered pairs to draw batches from, shared out to the workers: 0.9 GB at 256 x 144."""
    reuse: Annotated[int, Field(ge=1)] = 6
    """How often a rendered pair is drawn, on average."""


class DataTable(_Table):
    """A data set on disk that replaces the made world: its labelled frames."""

    kind: str
    root: Path
    split: str | None = None
    width: Side = 256
    height: Side = 144
    """Of the teachers' frames."""
    mirror: bool = True
    """Train on each frame's mirror image too; the paper does not."""
    fps: Annotated[float, Field(gt=0, le=1000)] = 30.0
    """The clips' frame rate, for a student that looks back by seconds."""


class StageTable(_Table):
    """One training stage. `steps` = 0 leaves it out."""

    steps: Steps
    batch: Batch
    rate: Rate = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that are kept; 0 keeps the last step's."""


class TeachersTable(StageTable):
    """The spatial and the temporal teacher."""

    imagenet: bool = True
    """Start the encoders from ImageNet weights."""


class MapsTable(_Table):
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
    soft: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the two students' maps, half each, as soft labels; 1 - soft of the hard label."""


class Recipe(_Table, ABC):
    """What every recipe has."""

    name: str
    seed: Annotated[int, Field(ge=0)]
    mixed: bool = False
    """Compute in bfloat16 where it is safe: twice as fast on processors that have it."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes of each training process that make or decode samples."""

    @property
    @abstractmethod
    def stages(self) -> dict[str, StageTable]:
        """Return the stages in their order, those that are left out too."""


class SkdRecipe(Recipe):
    """How an SKD student is trained: three stages on one stream of clips."""

    loss: Loss
    student: SkdTable
    world: WorldTable = WorldTable()
    data: DataTable | None = None
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
        if self.student.lag_s and self.student.pair == "next":
            raise ValueError('student.lag_s needs student.pair = "previous"')
        maps = self.students.maps is not None
        if self.data and self.world != WorldTable():
            raise ValueError("data and world are both set: leave out one, clips come from one place")
        if maps and not self.data:
            raise ValueError("students.maps needs data: the made world's clips have no maps on disk")
        if maps and not soft:
            raise ValueError("students.maps is given, but no student learns from it: set students.mu above 0")
        if maps and self.teachers.steps:
            raise ValueError("students.maps takes the trained teachers' place: set teachers.steps = 0")
        if self.network.soft and not self.students.steps:
            raise ValueError("network.soft needs students to learn from: set it to 0")
        if soft and not maps and not self.teachers.steps:
            raise ValueError("students.mu is above 0, but teachers.steps is 0: no soft labels to learn from")
        if self.teachers.steps and not soft:
            raise ValueError("teachers are trained, but no student learns from them: set teachers.steps = 0")
        if self.network.freeze and not self.students.steps:
            raise ValueError("network.freeze needs students to take the frozen parts from: set it to false")
        if not self.network.steps:
            raise ValueError("network.steps is 0: there would be nothing to keep")
        return self

    @property
    def large(self) -> tuple[int, int]:
        """Return the teachers' frames' width and height."""
        source = self.data or self.world
        return source.width, source.height

    def settings(self) -> SkdSettings:
        """Return the student's settings."""
        return SkdSettings(self.student.resolution, self.student.pair, HEADS[self.loss], self.student.lag_s)


KINDS: dict[str, type[Recipe]] = {"skd": SkdRecipe}
"""The recipe of each kind of student."""


def load_recipe(name: str | Path, changes: dict[str, str] | None = None) -> Recipe:
    """Read a recipe from a .toml file or by a shipped recipe's name.

    `changes` maps dotted keys to TOML values, as `network.steps` to `200`.

    Raises:
        InputError: no such recipe, bad TOML, a key that is unknown or a value out of range.
    """
    path = Path(name) if Path(name).is_file() else FOLDER / f"{name}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise InputError(f"no recipe {str(name)!r}; expected a .toml file or a shipped recipe: {names}")
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text())
        for key, value in (changes or {}).items():
            _put(document, key, value)
        recipe = _kind(document).model_validate(document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"])[:-1]
        said = first["msg"].removeprefix("Value error, ")
        got = f", got {first['input']!r}" if where and not isinstance(first["input"], dict) else ""
        raise InputError(f"{path}: {where}{': ' if where else ''}{said}{got}") from None
    return recipe


def _kind(document: dict[str, Any]) -> type[Recipe]:
    student = document.get("student")
    kind = student.get("kind", "skd") if isinstance(student, dict) else "skd"
    if kind not in KINDS:
        raise InputError(f"student.kind {kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind]


def _put(document: dict[str, Any], key: str, value: str) -> None:
    *tables, last = key.split(".")
    place = document
    for table in tables:
        place = place.setdefault(table, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {key}: {table} is no table of the recipe")
    try:
        place[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        place[last] = value
