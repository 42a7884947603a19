"""Releases: a folder with graphs per precision, a golden set and `release.json`.

`release.json` contains all that the stages need. Nothing is inferred from file names.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.core.atomic_files import atomic_file, sha256
from edge.core.errors import InputError
from edge.core.frames import GraphInput, Image
from edge.core.guarded_files import parse_json, read_arrays
from edge.metrics.score_calibration import ScoreCalibration
from edge.preprocessing.raw_frame import PIXEL_FORMATS, RawFrameSpec
from edge.preprocessing.transform import Alignment, FramePreprocessor, LaggedMotion, Preprocessing
from edge.release.json_values import parse_choice, parse_integer, parse_number, parse_optional, parse_text

SCHEMA = 1
RELEASE_MANIFEST = "release.json"
GOLDEN_FILE = "golden.npz"
DEFAULT_RELEASE = "skd-64-motion"
MAX_GOLDEN_BYTES = 256 << 20
"""Largest array of a golden set; those of the shipped releases have some megabytes."""
MAX_NAME_LENGTH = 100
RELEASE_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{MAX_NAME_LENGTH - 1}}}")
"""Names that a release may get, so that a bundle can carry it."""
MAX_LAG_S = 2.0
MAX_BLUR = 0.25
SHIPPED_RELEASES = Path(__file__).parent / "shipped"

Precision = Literal["fp32", "fp16", "int8"]
Form = Literal["stream", "pair", "clip"]
TargetEngine = Literal["any", "onnxruntime", "tensorrt"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class StateSpec:
    """A recurrent state of a streaming graph.

    The input is fed the output that the graph computed `lag_s` seconds before, rounded to whole frames and at
    least one frame before; or, if `fixed_lag` is set, that many frames before at any frame rate.

    Attributes:
        input: Name of the graph's input.
        output: Name of the graph's output.
        shape: Shape (N, C, H, W).
        start: Value of all elements before the first frame.
        lag_s: The lag in seconds.
        fixed_lag: The lag in frames; 0 if `lag_s` counts.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    start: float
    lag_s: float = 0.0
    fixed_lag: int = 0

    def lag_frames(self, fps: float) -> int:
        """Return the lag in frames at a frame rate."""
        return self.fixed_lag or max(1, round(self.lag_s * fps))


@dataclass(frozen=True)
class ClipSpec:
    """Frames that a graph takes together and maps that it returns: 1, for the last frame, or `frames`.

    In clip form the input is (1, 3, `frames`, H, W) and the output (1, `maps`, H, W). In stream form, which
    gives one map, the input is the newest frame, and the frames before it are the states.
    """

    frames: int
    maps: int


@dataclass(frozen=True)
class Verification:
    """Comparison of a graph's maps with PyTorch's fp32 maps.

    Attributes:
        frames: Number of frames compared.
        max_error: Largest absolute difference.
        mean_cc: Mean correlation coefficient.
        mean_kld: Mean Kullback-Leibler divergence.
        tolerance: Limit that the graph kept: for `max_error` in fp32, for 1 - `mean_cc` in other precisions.
        golden_cc: Lowest CC of a golden frame's map with PyTorch's. An engine must reach it again.
    """

    frames: int
    max_error: float
    mean_cc: float
    mean_kld: float
    tolerance: float
    golden_cc: float


@dataclass(frozen=True)
class Graph:
    """An ONNX file of a release.

    Attributes:
        file: Its name in the release's folder.
        form: "stream" takes a frame and its states, "pair" a frame and its neighbour, "clip" several frames.
        precision: The precision that it computes in.
        engine: The engine that its Q/DQ placement suits; "any" for a graph without Q/DQ.
        batch: The batch size; None if it is dynamic.
        verified: Comparison with PyTorch, if it was made.
    """

    file: str
    form: Form
    precision: Precision
    engine: TargetEngine
    batch: int | None
    verified: Verification | None


@dataclass(frozen=True)
class Release:
    """A release whose files match `release.json`.

    The attributes except `folder` are the keys of `release.json`.

    Attributes:
        folder: The release's folder.
        name: Name of the release.
        student: Description of the student network.
        preprocessing: Conversion of frames to inputs.
        inputs: Names of the frame inputs. Graphs in pair form and aligned streams take two, others the first.
        output: Name of the map output.
        delay_frames: Number of frames by which maps lag behind their frame.
        preroll: How often the first frame is fed before its map counts, so that states settle.
        states: Recurrent states of the stream form.
        graphs: The ONNX files.
        trained: Record of the training.
        calibrated: Record of the calibration; None if there was none.
        raw_frame: Input of graphs that contain the preprocessing; None if they do not. With alignment, their
            second input is a homography (1, 3, 3), and the resized frame is a state.
        clip: Frames that the graphs take together; None if they take one, or a pair.
        blur: Gaussian blur of the maps after the graph: sigma as a fraction of the map's width; 0 for none.
        score: Calibration of the scores of regions; None if the release has none.
        map_size: Width and height of the maps; None if they are those of the input.
    """

    folder: Path
    name: str
    student: Mapping[str, Any]
    preprocessing: Preprocessing
    inputs: tuple[str, ...]
    output: str
    delay_frames: int
    preroll: int
    states: tuple[StateSpec, ...]
    graphs: tuple[Graph, ...]
    trained: Mapping[str, Any]
    calibrated: Mapping[str, Any] | None
    raw_frame: RawFrameSpec | None = None
    clip: ClipSpec | None = None
    blur: float = 0.0
    score: ScoreCalibration | None = None
    map_size: tuple[int, int] | None = None

    @property
    def map_shape(self) -> tuple[int, int]:
        """Return height and width of the maps."""
        width, height = self.map_size or (self.preprocessing.width, self.preprocessing.height)
        return height, width

    @property
    def prepare(self) -> RawFrameSpec | Preprocessing:
        """Return the callable that makes the graphs' input from a frame (H, W, 3), uint8 BGR."""
        return self.raw_frame or self.preprocessing

    def stream_preprocessor(self, fps: float) -> Callable[[Image], tuple[GraphInput, ...]]:
        """Return the function that makes the inputs of the stream form from the frames of a clip, in order.

        Args:
            fps: Frame rate of the clip.

        Returns:
            A function of a frame (H, W, 3), uint8 BGR, that returns the inputs in the order of `input_names`.
            With alignment it keeps past frames.
        """
        preprocessing, raw = self.preprocessing, self.raw_frame
        if preprocessing.alignment is None:
            return lambda image: (self.prepare(image),)
        if raw is None:
            preprocess = FramePreprocessor(preprocessing, fps)
            return lambda image: tuple(np.split(preprocess(image), 2))
        motion = LaggedMotion(preprocessing.alignment, fps)
        return lambda image: (raw(image), motion(preprocessing.resize_grey(image)))

    def input_shapes(self, batch: int | None, form: Form) -> dict[str, tuple[int | None, ...]]:
        """Return the shape of each frame input of a form, by name."""
        shapes = dict.fromkeys(self.input_names(form), self.input_shape(batch, form))
        if self.raw_frame is not None and self.preprocessing.alignment is not None:
            shapes[self.inputs[1]] = (batch, 3, 3)
        return shapes

    def input_shape(self, batch: int | None, form: Form) -> tuple[int | None, ...]:
        """Return the shape of the input for a frame or a clip."""
        if form == "clip" and self.clip is not None:
            return (batch, 3, self.clip.frames, self.preprocessing.height, self.preprocessing.width)
        if self.raw_frame is not None:
            return (batch, *self.raw_frame.shape[1:])
        return (batch, 3, self.preprocessing.height, self.preprocessing.width)

    def graph(self, precision: str, form: Form = "stream", engine: TargetEngine = "onnxruntime") -> Graph:
        """Return the graph for a precision on an engine.

        Raises:
            InputError: There is no such precision, or the release lacks it.
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
        """Return the precisions available for a form and an engine, in the order of `PRECISIONS`."""
        available = {g.precision for g in self.graphs if g.form == form and g.engine in (engine, "any")}
        return tuple(p for p in PRECISIONS if p in available)

    def input_names(self, form: Form) -> tuple[str, ...]:
        """Return the names of the inputs of a form, without the states."""
        two = form == "pair" or (form == "stream" and self.preprocessing.alignment is not None)
        return self.inputs if two else self.inputs[:1]

    def forms(self) -> tuple[Form, ...]:
        """Return the available forms, in the order of `FORMS`."""
        return tuple(form for form in FORMS if any(graph.form == form for graph in self.graphs))

    def verified_graphs(self) -> list[tuple[Graph, Verification]]:
        """Return the graphs that were compared with PyTorch, with the results."""
        return [(graph, graph.verified) for graph in self.graphs if graph.verified is not None]

    def path(self, graph: Graph) -> Path:
        """Return the path of a graph's ONNX file."""
        return self.folder / graph.file

    def load_golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Load the golden set.

        The frames are stored at the size of `Preprocessing.resized_shape`. For graphs that take raw frames
        they are stretched to the raw size.

        Returns:
            Consecutive frames (N, H, W, 3), BGR, and PyTorch's maps for them (N, h, w).

        Raises:
            InputError: The golden set cannot be read or has other shapes.
        """
        path, frame_size = self.folder / GOLDEN_FILE, self.preprocessing.resized_shape
        map_size = self.map_shape
        expected = "a golden set: export the release again"
        arrays = read_arrays(path, ("frames", "maps"), expected, MAX_GOLDEN_BYTES)
        frames, maps = arrays["frames"], arrays["maps"]
        if (
            frames.dtype != np.uint8
            or maps.dtype != np.float32
            or (frames.ndim, maps.ndim) != (4, 3)
            or not len(frames)
            or frames.shape != (len(maps), *frame_size, 3)
            or maps.shape[1:] != map_size
        ):
            raise InputError(
                f"{path} holds frames {frames.dtype}{frames.shape} and maps {maps.dtype}{maps.shape}; "
                f"expected uint8 (N, {frame_size[0]}, {frame_size[1]}, 3) "
                f"and float32 (N, {map_size[0]}, {map_size[1]}): "
                "export the release again"
            )
        if self.raw_frame is not None:
            frames = np.stack([self.raw_frame.stretch(frame) for frame in frames])
        return frames, maps


def save_release(release: Release) -> None:
    """Write `release.json` to the release's folder, with hash and size of every file there."""
    document = dataclasses.asdict(release)
    del document["folder"]
    preprocessing = document["preprocessing"]
    # Optional keys are written only if they are used (docs/reference/release.md).
    used = [(document, key) for key in ("raw_frame", "clip", "score", "map_size")] + [
        (preprocessing, "alignment")
    ]
    for table, optional in used:
        if table[optional] is None:
            del table[optional]
    if not document["blur"]:
        del document["blur"]
    for state in document["states"]:
        if not state["fixed_lag"]:
            del state["fixed_lag"]
    release_files = {
        path.name: {"sha256": sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(release.folder.iterdir())
        if path.name != RELEASE_MANIFEST
    }
    document = {"schema": SCHEMA, **document, "files": release_files}
    (release.folder / RELEASE_MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def save_score(release: Release, score: ScoreCalibration) -> Release:
    """Write a calibration of the score into `release.json`; its other keys and the files stay as they are.

    Raises:
        InputError: The folder cannot be written.
    """
    path = release.folder / RELEASE_MANIFEST
    document = json.loads(path.read_text())
    files = document.pop("files")
    document |= {"score": dataclasses.asdict(score), "files": files}
    with atomic_file(path) as file:
        file.write_text(json.dumps(document, indent=1) + "\n")
    return dataclasses.replace(release, score=score)


def locate_release(name: str | Path | None) -> Path:
    """Return the folder of a release.

    Args:
        name: A folder, the name of a shipped release, or None for the default release.

    Raises:
        InputError: `name` is neither a folder nor a shipped release.
    """
    if name is None:  # not a folder of this name in the working directory
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
    """Return the names of the files that belong to a loaded release; its folder may contain others."""
    return [RELEASE_MANIFEST, *json.loads((release.folder / RELEASE_MANIFEST).read_text())["files"]]


def load_release(name: str | Path | None = None) -> Release:
    """Load a release and check that all its files are present and unchanged.

    Args:
        name: As for `locate_release`.

    Raises:
        InputError: There is no such release, its manifest is malformed or of another schema, or a file is
            missing or changed.
    """
    folder = locate_release(name)
    manifest = folder / RELEASE_MANIFEST
    document = _read_document(folder)
    try:
        release = _parse_release(folder, document)
        hashes = {
            str(file): (str(entry["sha256"]), int(entry["size_bytes"]))
            for file, entry in document["files"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
        raise InputError(f"{manifest} {problem}: export the release again") from None
    for required in (GOLDEN_FILE, *(graph.file for graph in release.graphs)):
        if required not in hashes:
            raise InputError(f"{manifest} lists no hash of {required}: export the release again")
    for file, (digest, size) in hashes.items():
        _check_file(folder, file, digest, size)
    return release


def _read_document(folder: Path) -> dict[str, Any]:
    """Return the content of `release.json` in a folder, after checking its schema."""
    manifest = folder / RELEASE_MANIFEST
    try:
        document = parse_json(manifest.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a release: it has no {RELEASE_MANIFEST}; make one with aerogaze export"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{manifest} cannot be read as JSON ({error}): export the release again") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA or not isinstance(document, dict):
        raise InputError(
            f"{manifest} has schema {schema!r}; this aerogaze reads schema {SCHEMA}: "
            "use the aerogaze that wrote it, or export again"
        )
    return document


def _check_file(folder: Path, name: str, digest: str, size: int) -> None:
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


def _parse_release(folder: Path, document: Mapping[str, Any]) -> Release:
    graphs = tuple(map(_parse_graph, document["graphs"]))
    if not graphs:
        raise ValueError("graphs is empty")
    inputs = tuple(map(parse_text, document["inputs"]))
    if not inputs:
        raise ValueError("inputs is empty")
    return Release(
        folder=folder,
        name=parse_text(document["name"]),
        student=dict(document["student"]),
        preprocessing=_parse_preprocessing(document["preprocessing"]),
        inputs=inputs,
        output=parse_text(document["output"]),
        delay_frames=parse_integer(document["delay_frames"]),
        preroll=parse_integer(document["preroll"]),
        states=tuple(map(_parse_state, document["states"])),
        graphs=graphs,
        trained=dict(document["trained"]),
        calibrated=parse_optional(document["calibrated"], dict),
        raw_frame=parse_optional(document.get("raw_frame"), _parse_raw_frame),
        clip=parse_optional(document.get("clip"), _parse_clip),
        blur=_parse_blur(document.get("blur", 0.0)),
        score=parse_optional(document.get("score"), _parse_score),
        map_size=parse_optional(document.get("map_size"), _parse_map_size),
    )


def _parse_state(document: Mapping[str, Any]) -> StateSpec:
    return StateSpec(
        input=parse_text(document["input"]),
        output=parse_text(document["output"]),
        shape=tuple(parse_integer(side, minimum=1) for side in document["shape"]),
        start=parse_number(document["start"]),
        lag_s=_parse_lag(document["lag_s"]),
        fixed_lag=parse_integer(document.get("fixed_lag", 0)),
    )


def _parse_graph(document: Mapping[str, Any]) -> Graph:
    return Graph(
        file=parse_text(document["file"]),
        form=parse_choice(document["form"], FORMS),
        precision=parse_choice(document["precision"], PRECISIONS),
        engine=parse_choice(document["engine"], get_args(TargetEngine)),
        batch=parse_optional(document["batch"], lambda batch: parse_integer(batch, minimum=1)),
        verified=parse_optional(document["verified"], _parse_verification),
    )


def _parse_verification(document: Mapping[str, Any]) -> Verification:
    values = {field.name: document[field.name] for field in dataclasses.fields(Verification)}
    frames = parse_integer(values.pop("frames"), minimum=1)
    return Verification(frames, **{name: parse_number(value) for name, value in values.items()})


def _parse_preprocessing(document: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        width=parse_integer(document["width"], minimum=1),
        height=parse_integer(document["height"], minimum=1),
        scale=parse_number(document["scale"]),
        offset=parse_number(document["offset"]),
        alignment=parse_optional(document.get("alignment"), _parse_alignment),
    )


def _parse_alignment(document: Mapping[str, Any]) -> Alignment:
    lag_s = _parse_lag(document["lag_s"])
    width, height = (parse_integer(document[side], minimum=16) for side in ("width", "height"))
    return Alignment(lag_s, width, height)


def _parse_raw_frame(document: Mapping[str, Any]) -> RawFrameSpec:
    width, height = (parse_integer(document[side], minimum=1) for side in ("width", "height"))
    try:
        return RawFrameSpec(width, height, parse_choice(document["format"], PIXEL_FORMATS))
    except InputError as error:
        raise ValueError(str(error)) from None


def _parse_clip(document: Mapping[str, Any]) -> ClipSpec:
    frames = parse_integer(document["frames"], minimum=1)
    return ClipSpec(frames, parse_choice(document["maps"], (1, frames)))


def _parse_map_size(value: Any) -> tuple[int, int]:
    width, height = (parse_integer(side, minimum=1) for side in value)
    return width, height


def _parse_lag(value: Any) -> float:
    if not 0 <= parse_number(value) <= MAX_LAG_S:
        raise ValueError(f"a lag of {value} s; expected 0 to {MAX_LAG_S}")
    return float(value)


def _parse_score(document: Mapping[str, Any]) -> ScoreCalibration:
    score = ScoreCalibration(
        share=parse_number(document["share"]),
        focus=parse_number(document["focus"]),
        offset=parse_number(document["offset"]),
        threshold=parse_number(document["threshold"]),
    )
    if not 0 <= score.threshold <= 1:
        raise ValueError(f"a threshold of {score.threshold}; expected 0 to 1")
    return score


def _parse_blur(value: Any) -> float:
    if not 0 <= parse_number(value) <= MAX_BLUR:
        raise ValueError(f"a blur of {value} widths; expected 0 to {MAX_BLUR}")
    return float(value)
