"""A release as the stages see it: its graphs, what they take and give, and its golden set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import GraphInput, Image
from edge.core.guarded_files import read_arrays
from edge.metrics.score_calibration import ScoreCalibration
from edge.preprocessing.raw_frame import RawFrameSpec
from edge.preprocessing.transform import FramePreprocessor, LaggedMotion, Preprocessing

GOLDEN_FILE = "golden.npz"
MAX_GOLDEN_BYTES = 256 << 20
"""Largest array of a golden set; those of the shipped releases have some megabytes."""

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
