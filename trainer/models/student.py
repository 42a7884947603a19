"""Students: networks with their settings and a record of their training, stored as safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edge.core.atomic_files import atomic_file
from edge.core.errors import InputError
from edge.preprocessing.transform import Alignment, Preprocessing
from edge.release.manifest import MAX_LAG_S
from trainer.models import streaming
from trainer.models.mobilenet3d import CLIP_FRAMES, SIDE_MULTIPLE, Reduction
from trainer.models.skd import RESOLUTIONS, SpatiotemporalNetwork
from trainer.models.tinyhd import DECODERS, MAPS, TinyHD, Variant

SCHEMA = 1
SHIPPED_STUDENTS = Path(__file__).parent.parent / "students"

Head = Literal["density", "log_density"]
"""Meaning of a raw map."""
Pair = Literal["next", "previous"]
"""Neighbour that a frame is paired with."""


class StudentSettings(Protocol):
    """Settings of a student: a dataclass of plain values from which its network can be built."""

    @property
    def kind(self) -> str:
        """Return the key in `SETTINGS_BY_KIND`."""

    @property
    def delay_frames(self) -> int:
        """Return by how many frames the map of a frame is delayed."""

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing from frames to the input of this student."""

    def build(self) -> nn.Module:
        """Return the network, untrained."""


@dataclass(frozen=True)
class SkdSettings:
    """Settings of an SKD student.

    Attributes:
        resolution: Sides of its input in pixels.
        pair: Neighbour that a frame is paired with. "next", as in the paper, delays a stream by one frame;
            "previous" delays nothing.
        head: Whether the raw map is a density (as in the paper, trained by MSE) or its logarithm (trained
            by KL).
        lag_s: How far "previous" looks back, in seconds, to the nearest frame; 0 is the frame before. At 30
            frames per second, small objects do not move between consecutive frames.
        align: Whether the previous frame is aligned with the current one first, so that only independent
            motion differs.

    Raises:
        InputError: An unknown value, a lag with "next", or an alignment without lag.
    """

    resolution: int
    pair: Pair
    head: Head
    lag_s: float = 0.0
    align: bool = False
    kind: Literal["skd"] = "skd"

    def __post_init__(self) -> None:
        if self.resolution not in RESOLUTIONS:
            raise InputError(
                f"no SKD student at resolution {self.resolution}; expected {', '.join(map(str, RESOLUTIONS))}"
            )
        if self.pair not in get_args(Pair) or self.head not in get_args(Head):
            raise InputError(
                f"no SKD student has pair {self.pair!r} and head {self.head!r}; expected one of "
                f"{', '.join(get_args(Pair))} and one of {', '.join(get_args(Head))}"
            )
        if not 0 <= self.lag_s <= (MAX_LAG_S if self.pair == "previous" else 0):
            raise InputError(
                f"a student paired with the {self.pair} frame cannot lag by {self.lag_s} s; "
                f'expected 0, or up to {MAX_LAG_S} with "previous"'
            )
        if self.align and not self.lag_s:
            raise InputError(
                "a student that aligns the previous frame needs a lag: set lag_s, for example to 0.4"
            )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing from frames to the input of this student."""
        alignment = Alignment(self.lag_s) if self.align else None
        return Preprocessing(self.resolution, self.resolution, alignment=alignment)

    @property
    def delay_frames(self) -> int:
        """Return 1 if a frame is paired with the next one, else 0."""
        return int(self.pair == "next")

    def build(self) -> SpatiotemporalNetwork:
        """Return the network, untrained."""
        return SpatiotemporalNetwork(self.align)


@dataclass(frozen=True)
class TinyHDSettings:
    """Settings of a TinyHD student, whose input is a clip of 16 frames of `height` x `width`."""

    variant: Variant
    rc: Reduction = 1
    decoders: Sequence[str] = tuple(DECODERS)
    height: int = 192
    width: int = 256
    kind: Literal["tinyhd"] = "tinyhd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoders", tuple(self.decoders))  # JSON gives a list
        if self.height % SIDE_MULTIPLE or self.width % SIDE_MULTIPLE or min(self.height, self.width) <= 0:
            raise InputError(
                f"no TinyHD student for frames of {self.height} x {self.width}; expected multiples of "
                f"{SIDE_MULTIPLE}, for example 192 x 256"
            )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing from frames to the input of this student."""
        return Preprocessing(self.width, self.height)

    @property
    def delay_frames(self) -> int:
        """Return 15 for variant M, where the first frame of a clip waits for the last, and 0 for S."""
        return CLIP_FRAMES - 1 if MAPS[self.variant] > 1 else 0

    def build(self) -> TinyHD:
        """Return the network, untrained.

        Raises:
            InputError: An unknown variant, reduction or decoder.
        """
        return TinyHD(self.variant, self.rc, self.decoders)


@dataclass(frozen=True)
class StreamingSettings:
    """Settings of a streaming student.

    Attributes:
        height: Height of its frames in pixels.
        width: Width of its frames in pixels.
        rc: Channel reduction.
        lag_s: How many seconds earlier the frame was captured that is aligned with the current one.
        align: Whether the difference to that frame is an input. The memories need no lag: theirs is fixed.

    Raises:
        InputError: An unknown value, or one of lag and alignment without the other.
    """

    height: int
    width: int
    rc: streaming.Reduction
    lag_s: float = 0.0
    align: bool = False
    kind: Literal["stream"] = "stream"

    def __post_init__(self) -> None:
        if (self.height, self.width) not in streaming.SIZES or self.rc not in streaming.REDUCTIONS:
            raise InputError(
                f"no streaming student for {self.height} x {self.width} at rc {self.rc}; expected "
                f"{' or '.join(f'{h} x {w}' for h, w in streaming.SIZES)} "
                f"and rc {', '.join(map(str, streaming.REDUCTIONS))}"
            )
        if bool(self.lag_s) != self.align or not 0 <= self.lag_s <= MAX_LAG_S:
            raise InputError(
                f"a streaming student cannot have align {self.align} and lag_s {self.lag_s}; expected both, "
                f"with a lag up to {MAX_LAG_S}, or neither"
            )

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing from frames to the input of this student."""
        alignment = Alignment(self.lag_s) if self.align else None
        return Preprocessing(self.width, self.height, alignment=alignment)

    @property
    def delay_frames(self) -> int:
        """Return 0: no frame waits for another."""
        return 0

    def build(self) -> streaming.StreamingNetwork:
        """Return the network, untrained."""
        return streaming.StreamingNetwork(self.rc, self.align)


SETTINGS_BY_KIND: dict[str, Callable[..., StudentSettings]] = {
    "skd": SkdSettings,
    "tinyhd": TinyHDSettings,
    "stream": StreamingSettings,
}
"""Settings class of each kind of student; the kind is stored in the student's file."""


def raw_to_saliency(raw: Tensor, head: Head) -> Tensor:
    """Return the saliency map (N, 1, H, W) of a raw map: non-negative, a density up to a factor."""
    if head == "density":
        return raw.relu()
    return (raw - raw.amax(dim=(2, 3), keepdim=True)).exp()


@dataclass(frozen=True)
class Student:
    """Trained network with its settings.

    Attributes:
        name: Name of the student. It is that of its file, without the suffix.
        settings: Settings from which the network can be built.
        network: The network.
        trained: Record of the training, such as the recipe and the data.
    """

    name: str
    settings: StudentSettings
    network: nn.Module
    trained: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the student to a safetensors file atomically."""
        metadata = {
            "schema": str(SCHEMA),
            "name": path.stem,
            "student": json.dumps(vars(self.settings)),
            "trained": json.dumps(self.trained),
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        with atomic_file(path) as pending:
            save_file(tensors, pending, metadata)


def load_student(name: str | Path) -> Student:
    """Load a student from a .safetensors file, or a shipped student by its name, in evaluation mode.

    Raises:
        InputError: No such student, not the file of a student, an unknown schema, weights that are not
            finite, or a TinyHD student of an earlier version, whose decoders had other widths.
    """
    path = Path(name)
    if not path.is_file():
        shipped = SHIPPED_STUDENTS / f"{name}.safetensors"
        if not shipped.is_file():
            names = ", ".join(sorted(p.stem for p in SHIPPED_STUDENTS.glob("*.safetensors")))
            raise InputError(
                f"no student {str(name)!r}; expected a .safetensors file made by aerogaze train, "
                f"or a shipped student: {names}"
            )
        path = shipped
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}); make one with aerogaze train"
        ) from None
    if metadata.get("schema") != str(SCHEMA):
        raise InputError(
            f"{path} has student schema {metadata.get('schema')!r}; this version reads {SCHEMA}: "
            "use the version of aerogaze that wrote it"
        )
    non_finite = next((key for key, value in tensors.items() if not torch.isfinite(value).all()), None)
    if non_finite is not None:
        raise InputError(f"{path}: weight {non_finite} is not finite; train the student again")
    try:
        values = json.loads(metadata["student"])
        settings = SETTINGS_BY_KIND[values["kind"]](**values)
        network = settings.build()
        if isinstance(network, TinyHD) and any(_is_old_decoder_weight(key) for key in tensors):
            raise InputError(
                f"{path} is a TinyHD student with decoder widths of an earlier version; expected those that "
                "the authors published: train it again"
            )
        network.load_state_dict(tensors)
        trained = json.loads(metadata["trained"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a student of aerogaze train ({str(error).splitlines()[0]}); train it again"
        ) from None
    return Student(path.stem, settings, network.eval(), trained)


def _is_old_decoder_weight(key: str) -> bool:
    """Say whether a weight belongs to TinyHD's decoders before they had the published widths."""
    return key.startswith("decoders.") and key.split(".")[2] in ("branches", "laterals")


def as_skd(student: Student) -> tuple[SkdSettings, SpatiotemporalNetwork]:
    """Return settings and network of an SKD student.

    Raises:
        InputError: The student is of another kind.
    """
    if isinstance(student.settings, SkdSettings) and isinstance(student.network, SpatiotemporalNetwork):
        return student.settings, student.network
    raise InputError(f"student {student.name} is of kind {student.settings.kind}; expected skd")


def as_tinyhd(student: Student) -> tuple[TinyHDSettings, TinyHD]:
    """Return settings and network of a TinyHD student.

    Raises:
        InputError: The student is of another kind.
    """
    if isinstance(student.settings, TinyHDSettings) and isinstance(student.network, TinyHD):
        return student.settings, student.network
    raise InputError(f"student {student.name} is of kind {student.settings.kind}; expected tinyhd")


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(p.numel() for p in network.parameters())
