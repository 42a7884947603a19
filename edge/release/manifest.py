"""The release: a folder with graphs per precision, a golden set and `release.json`, which says all
that a stage needs. Nothing is inferred from file names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import sha256
from edge.core.errors import InputError
from edge.preprocessing.raw_frame import PIXEL_FORMATS, RawFrameSpec
from edge.preprocessing.transform import Alignment, Preprocessing

SCHEMA = 1
RELEASE_MANIFEST = "release.json"
GOLDEN_FILE = "golden.npz"
DEFAULT_RELEASE = "skd-64"
MAX_LAG_S = 2.0
MAX_BLUR = 0.25
SHIPPED_RELEASES = Path(__file__).parent / "shipped"

Precision = Literal["fp32", "fp16", "int8"]
Form = Literal["stream", "pair", "clip"]
TargetEngine = Literal["any", "onnxruntime", "tensorrt"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FORMS: tuple[Form, ...] = get_args(Form)

T = TypeVar("T")


@dataclass(frozen=True)
class StateSpec:
    """What a streaming graph carries from frame to frame.

    `shape` is (N, C, H, W); every value is `start` before the first frame. The graph is fed what it gave
    `lag_s` seconds before, to the nearest frame but at least one; at 0, one frame before.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    start: float
    lag_s: float = 0.0

    def lag_frames(self, fps: float) -> int:
        """Return how many frames back the value fed is, at most, at a frame rate."""
        return max(1, round(self.lag_s * fps))


@dataclass(frozen=True)
class ClipSpec:
    """What a clip graph takes and gives: (1, 3, `frames`, H, W) to (1, `maps`, H, W).

    One map is that of the last frame; else there is one for each frame.
    """

    frames: int
    maps: int


@dataclass(frozen=True)
class Verification:
    """How far a graph's maps are from PyTorch's fp32 maps, on how many frames."""

    frames: int
    max_error: float
    mean_cc: float
    mean_kld: float
    tolerance: float
    """`max_error` was required to be at most this for fp32; other precisions: 1 - `mean_cc`."""
    golden_cc: float
    """Least CC of a golden frame's map with PyTorch's: what an engine must give again."""


@dataclass(frozen=True)
class Graph:
    """One ONNX file.

    `form`: "stream" takes one frame and its states; "pair" takes a frame and its neighbour; "clip" a row of
    frames.
    `engine`: whom its Q/DQ placement is made for; "any" has none. `batch`: None is dynamic.
    """

    file: str
    form: Form
    precision: Precision
    engine: TargetEngine
    batch: int | None
    verified: Verification | None


@dataclass(frozen=True)
class Release:
    """A release that was read and whose files are what `release.json` says."""

    folder: Path
    name: str
    student: Mapping[str, Any]
    preprocessing: Preprocessing
    inputs: tuple[str, ...]
    """The pair form takes both, and so does an aligned stream; other streams take the first."""
    output: str
    delay_frames: int
    preroll: int
    """How often the first frame is fed before its map counts, so that states settle on it."""
    states: tuple[StateSpec, ...]
    graphs: tuple[Graph, ...]
    trained: Mapping[str, Any]
    calibrated: Mapping[str, Any] | None
    raw_frame: RawFrameSpec | None = None
    """What the graphs take, if they do the preprocessing themselves."""
    clip: ClipSpec | None = None
    """What graphs in clip form take and give."""
    blur: float = 0.0
    """How far maps are softened after the graph: a Gaussian's sigma in widths of the map; 0 leaves them."""

    @property
    def prepare(self) -> RawFrameSpec | Preprocessing:
        """Return what makes the graphs' input of a frame (H, W, 3), uint8 BGR."""
        return self.raw_frame or self.preprocessing

    def input_shape(self, batch: int | None, form: Form) -> tuple[int | None, ...]:
        """Return the shape of a frame, or clip, as the graphs take it."""
        if form == "clip" and self.clip is not None:
            return (batch, 3, self.clip.frames, self.preprocessing.height, self.preprocessing.width)
        if self.raw_frame is not None:
            return (batch, *self.raw_frame.shape[1:])
        return (batch, 3, self.preprocessing.height, self.preprocessing.width)

    def graph(self, precision: str, form: Form = "stream", engine: TargetEngine = "onnxruntime") -> Graph:
        """Return the graph for a precision on an engine.

        Raises:
            InputError: no such precision, or the release lacks it; what it has is named.
        """
        if precision not in PRECISIONS:
            raise InputError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
        fitting = [g for g in self.graphs if (g.precision, g.form) == (precision, form)]
        for graph in fitting:
            if graph.engine in (engine, "any"):
                return graph
        raise InputError(
            f"release {self.name} has no {precision} graph in {form} form for {engine}; "
            f"it has {', '.join(self.precisions(form, engine)) or 'none'}: "
            "choose one of these, or export it again"
        )

    def precisions(
        self, form: Form = "stream", engine: TargetEngine = "onnxruntime"
    ) -> tuple[Precision, ...]:
        """Return the precisions there are for a form and an engine, in the order of `PRECISIONS`."""
        have = {g.precision for g in self.graphs if g.form == form and g.engine in (engine, "any")}
        return tuple(p for p in PRECISIONS if p in have)

    def input_names(self, form: Form) -> tuple[str, ...]:
        """Return the names of the frames that a form takes, in the order of `Eye`'s."""
        two = form == "pair" or (form == "stream" and self.preprocessing.alignment is not None)
        return self.inputs if two else self.inputs[:1]

    def forms(self) -> tuple[Form, ...]:
        """Return the forms there are, in the order of `Form`."""
        return tuple(form for form in FORMS if any(graph.form == form for graph in self.graphs))

    def verified_graphs(self) -> list[tuple[Graph, Verification]]:
        """Return the graphs that were verified, with what was found."""
        return [(graph, graph.verified) for graph in self.graphs if graph.verified is not None]

    def path(self, graph: Graph) -> Path:
        """Return where the graph's ONNX file is."""
        return self.folder / graph.file

    def load_golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return consecutive frames (N, H, W, 3) BGR and PyTorch's maps (N, h, w).

        Frames are kept at the size that preprocessing sees them at; for graphs that take raw frames they are
        stretched to theirs.

        Raises:
            InputError: the golden set cannot be read, or is not of these shapes.
        """
        path, seen = self.folder / GOLDEN_FILE, self.preprocessing.resized_shape
        size = self.preprocessing.height, self.preprocessing.width
        try:
            with np.load(path, allow_pickle=False) as golden:
                frames, maps = golden["frames"], golden["maps"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} cannot be read ({error or 'empty'}): export the release again"
            ) from None
        if (
            frames.dtype != np.uint8
            or maps.dtype != np.float32
            or not len(frames)
            or frames.shape != (len(maps), *seen, 3)
            or maps.shape[1:] != size
        ):
            raise InputError(
                f"{path} holds frames {frames.dtype}{frames.shape} and maps {maps.dtype}{maps.shape}; "
                f"expected uint8 (N, {seen[0]}, {seen[1]}, 3) and float32 (N, {size[0]}, {size[1]}): "
                "export the release again"
            )
        if self.raw_frame is not None:
            frames = np.stack([self.raw_frame.stretch(frame) for frame in frames])
        return frames, maps


def save_release(release: Release) -> None:
    """Write `release.json` into the release's folder, with hash and size of every file there."""
    document = dataclasses.asdict(release)
    del document["folder"]
    prepared = document["preprocessing"]
    for table, optional in ((document, "raw_frame"), (document, "clip"), (prepared, "alignment")):
        if table[optional] is None:
            del table[optional]
    if not document["blur"]:
        del document["blur"]
    release_files = {
        path.name: {"sha256": sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(release.folder.iterdir())
        if path.name != RELEASE_MANIFEST
    }
    document = {"schema": SCHEMA, **document, "files": release_files}
    (release.folder / RELEASE_MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def locate_release(name: str | Path | None) -> Path:
    """Return the folder of a release given as a folder, a shipped release's name, or None (default).

    Raises:
        InputError: neither a folder nor a shipped name.
    """
    if name is None:  # whatever is called so in the folder at hand
        return SHIPPED_RELEASES / DEFAULT_RELEASE
    if Path(name).is_dir():
        return Path(name)
    shipped = (
        sorted(path.name for path in SHIPPED_RELEASES.iterdir() if path.is_dir())
        if SHIPPED_RELEASES.is_dir()
        else []
    )
    if str(name) in shipped:
        return SHIPPED_RELEASES / name
    raise InputError(
        f"no release {str(name)!r}; expected a folder with {RELEASE_MANIFEST} "
        f"or one of the shipped releases: {', '.join(shipped)}"
    )


def release_files(release: Release) -> list[str]:
    """Return the names of the files that make an opened release, whatever else lies in its folder."""
    return [RELEASE_MANIFEST, *json.loads((release.folder / RELEASE_MANIFEST).read_text())["files"]]


def load_release(name: str | Path | None = None) -> Release:
    """Read a release and check that every file is there and unchanged.

    Raises:
        InputError: no such release, unknown schema, malformed manifest, missing or changed file.
    """
    folder = locate_release(name)
    manifest = folder / RELEASE_MANIFEST
    try:
        document = json.loads(manifest.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a release: it has no {RELEASE_MANIFEST}; make one with aerogaze export"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{manifest} cannot be read as JSON ({error}): export the release again") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        schema = document.get("schema") if isinstance(document, dict) else None
        raise InputError(
            f"{manifest} has schema {schema!r}; this aerogaze reads schema {SCHEMA}: "
            "use the aerogaze that wrote it, or export again"
        )
    try:
        release = _parse(folder, document)
        release_files = {
            str(name): (str(f["sha256"]), int(f["size_bytes"])) for name, f in document["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
        raise InputError(f"{manifest} {what}: export the release again") from None
    for needed in (GOLDEN_FILE, *(graph.file for graph in release.graphs)):
        if needed not in release_files:
            raise InputError(f"{manifest} lists no hash of {needed}: export the release again")
    for name, (digest, size) in release_files.items():
        _check(folder, name, digest, size)
    return release


def _check(folder: Path, name: str, digest: str, size: int) -> None:
    if Path(name).name != name:
        raise InputError(f"{folder / RELEASE_MANIFEST} lists {name!r}; expected names of files in its folder")
    path = folder / name
    if not path.is_file():
        raise InputError(f"release {folder} lacks {name}: copy it whole, or export again")
    if path.stat().st_size != size or sha256(path) != digest:
        raise InputError(
            f"release {folder}: {name} is not the file that was released (its hash differs): "
            "copy it again, or export again"
        )


def _parse(folder: Path, document: Mapping[str, Any]) -> Release:
    states = tuple(
        StateSpec(
            _text(s["input"]), _text(s["output"]), _shape(s["shape"]), _number(s["start"]), _lag(s["lag_s"])
        )
        for s in document["states"]
    )
    graphs = tuple(
        Graph(
            file=_text(g["file"]),
            form=_one_of(g["form"], FORMS),
            precision=_one_of(g["precision"], PRECISIONS),
            engine=_one_of(g["engine"], get_args(TargetEngine)),
            batch=None if g["batch"] is None else _whole(g["batch"], least=1),
            verified=None if g["verified"] is None else _verified(g["verified"]),
        )
        for g in document["graphs"]
    )
    if not graphs:
        raise ValueError("graphs is empty")
    prepared = document["preprocessing"]
    inputs = tuple(_text(name) for name in document["inputs"])
    if not inputs:
        raise ValueError("inputs is empty")
    return Release(
        folder=folder,
        name=_text(document["name"]),
        student=dict(document["student"]),
        preprocessing=Preprocessing(
            _whole(prepared["width"], least=1),
            _whole(prepared["height"], least=1),
            _number(prepared["scale"]),
            _number(prepared["offset"]),
            None if prepared.get("alignment") is None else _alignment(prepared["alignment"]),
        ),
        inputs=inputs,
        output=_text(document["output"]),
        delay_frames=_whole(document["delay_frames"]),
        preroll=_whole(document["preroll"]),
        states=states,
        graphs=graphs,
        trained=dict(document["trained"]),
        calibrated=None if document["calibrated"] is None else dict(document["calibrated"]),
        raw_frame=None if document.get("raw_frame") is None else _raw_frame(document["raw_frame"]),
        clip=None if document.get("clip") is None else _clip(document["clip"]),
        blur=_blur(document.get("blur", 0.0)),
    )


def _clip(clip: Mapping[str, Any]) -> ClipSpec:
    frames = _whole(clip["frames"], least=1)
    return ClipSpec(frames, _one_of(clip["maps"], (1, frames)))


def _raw_frame(raw: Mapping[str, Any]) -> RawFrameSpec:
    width, height = (_whole(raw[side], least=1) for side in ("width", "height"))
    try:
        return RawFrameSpec(width, height, _one_of(raw["format"], PIXEL_FORMATS))
    except InputError as error:
        raise ValueError(str(error)) from None


def _verified(found: Mapping[str, Any]) -> Verification:
    numbers = {field.name: found[field.name] for field in dataclasses.fields(Verification)}
    frames = _whole(numbers.pop("frames"), least=1)
    return Verification(frames, **{name: _number(value) for name, value in numbers.items()})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _whole(value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no whole number of at least {least}")
    return value


def _alignment(found: Mapping[str, Any]) -> Alignment:
    lag_s = _lag(found["lag_s"])
    return Alignment(lag_s, _whole(found["width"], least=16), _whole(found["height"], least=16))


def _lag(value: Any) -> float:
    if not 0 <= _number(value) <= MAX_LAG_S:
        raise ValueError(f"a lag of {value} s; expected 0 to {MAX_LAG_S}")
    return float(value)


def _blur(value: Any) -> float:
    if not 0 <= _number(value) <= MAX_BLUR:
        raise ValueError(f"a blur of {value} widths; expected 0 to {MAX_BLUR}")
    return float(value)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_whole(side, least=1) for side in value)


def _one_of(value: Any, choices: tuple[T, ...]) -> T:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(map(str, choices))}")
    return next(choice for choice in choices if choice == value)
