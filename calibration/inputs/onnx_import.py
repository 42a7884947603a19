"""The gate for ONNX files that others made: one image in, float32, operators that both engines run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, version_converter

from calibration.inputs import distribution_shift
from calibration.inputs.graph_inputs import InputFeeder
from edge.core.errors import InputError
from edge.preprocessing.transform import Preprocessing

Layout = Literal["nchw", "nhwc"]
Colour = Literal["rgb", "bgr"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COLOURS: tuple[Colour, ...] = get_args(Colour)
DEFAULT_SCALE, DEFAULT_OFFSET = (1 / 255,), (0.0,)
"""Of pixel values, if nothing is said."""
MAX_MODEL_BYTES = 2**31 - 1
"""Of a graph with its weights: what a protobuf message may hold."""
SUPPORTED_OPSETS = range(7, 24)
"""Read. All are brought to `TARGET_OPSET`."""
TARGET_OPSET = 20
"""Q/DQ on float16 needs 19; TensorRT 10.3 reads up to 20."""


@dataclass(frozen=True)
class ImageInput:
    """How a frame becomes a graph's input: resized by area, then v * scale + offset, channel by channel.

    `scale`, `offset`: one number, or one a channel, in the order that the graph sees them.
    """

    width: int
    height: int
    channels: int
    layout: Layout
    colour: Colour = "rgb"
    scale: tuple[float, ...] = DEFAULT_SCALE
    offset: tuple[float, ...] = DEFAULT_OFFSET

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a frame (H, W, 3), uint8 BGR, as float32 (1, C, height, width), or (1, height, width, C)."""
        image = Preprocessing(self.width, self.height).resize(frame)
        if self.channels == 1:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)[:, :, None]
        elif self.colour == "rgb":
            image = image[:, :, ::-1]
        with np.errstate(over="ignore"):  # what is not finite is told of the activations
            scaled = image * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)
        laid = scaled if self.layout == "nhwc" else scaled.transpose(2, 0, 1)
        return np.ascontiguousarray(laid[None], np.float32)


@dataclass(frozen=True)
class ImportedGraph:
    """A graph that came through the gate: opset 20, constants folded, every node named."""

    model: onnx.ModelProto
    image: ImageInput
    feeder: InputFeeder
    statistics: distribution_shift.ChannelStatistics


def import_graph(
    path: Path,
    layout: Layout | None = None,
    size: tuple[int, int] | None = None,
    colour: Colour = "rgb",
    scale: Sequence[float] = DEFAULT_SCALE,
    offset: Sequence[float] = DEFAULT_OFFSET,
    output: str | None = None,
) -> ImportedGraph:
    """Read an ONNX file, and see that it is one that can be calibrated.

    `layout`, `size` (width, height): needed where the input's shape leaves them open. `output`: what is
    judged; the graph's first.

    Raises:
        InputError: it is none, and why: what is wrong with which file, node, input or option.
    """
    model = _read_model(path)
    image = resolve_image_input(path, model, layout, size, colour, scale, offset)
    judged = select_output(path, model, output)
    statistics = distribution_shift.statistics_from_batch_norms(model)
    model = _simplify(path, _convert_opset(path, model))
    given = data_inputs(model)[0].name
    return ImportedGraph(model, image, InputFeeder(image, (given,), judged), statistics)


def resolve_image_input(
    path: Path,
    model: onnx.ModelProto,
    layout: Layout | None = None,
    size: tuple[int, int] | None = None,
    colour: Colour = "rgb",
    scale: Sequence[float] = DEFAULT_SCALE,
    offset: Sequence[float] = DEFAULT_OFFSET,
) -> ImageInput:
    """Return how a graph's one input is fed; what its shape leaves open is set in the graph, too.

    Raises:
        InputError: it is no image of float32, or the options do not fit it.
    """
    image = _image_input(path, model, layout, size)
    for option, values in (("--scale", scale), ("--offset", offset)):
        if len(values) not in (1, image.channels) or not np.isfinite(values).all():
            raise InputError(
                f"{option} has {len(values)} numbers; expected 1, or one for each of the input's "
                f"{image.channels} channels, all finite"
            )
    return replace(image, colour=colour, scale=tuple(scale), offset=tuple(offset))


def _read_model(path: Path) -> onnx.ModelProto:
    """Return the graph with its weights, none of them from outside its folder."""
    if not path.is_file():
        raise InputError(f"no file {path}; expected an ONNX graph or a release's folder")
    _check_size(path, path.stat().st_size)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's DecodeError, which has no types
        model = onnx.ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is no ONNX file (or cut off): export it again")
    _check_operators(path, model)
    total = path.stat().st_size
    folder = path.parent.resolve()
    files = set()
    for tensor in _tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        place = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not place.is_relative_to(folder):
            raise InputError(
                f"{path}: the data of {tensor.name} lies at {location!r}, outside the file's folder, and is "
                "not read; expected it beside the file: save the graph with its data in one folder"
            )
        if not place.is_file():
            raise InputError(
                f"{path}: the data of {tensor.name} is missing, expected at {place}: copy it there"
            )
        if place not in files:
            files.add(place)
            total += place.stat().st_size
    _check_size(path, total)
    try:
        if files:
            external_data_helper.load_external_data_for_model(model, str(folder))
        onnx.checker.check_model(model)
    except Exception as error:  # onnx's exceptions share no base of their own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is no sound ONNX graph ({reason}): export it again") from None
    return model


def _check_size(path: Path, size: int) -> None:
    if size > MAX_MODEL_BYTES:
        raise InputError(
            f"{path} has {size / 2**30:.2f} GiB with its weights; expected at most 2 GiB, what an ONNX graph "
            "can hold: split it, or store its weights in fewer bits"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _opset(model: onnx.ModelProto) -> int:
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    opset = _opset(model)
    if opset not in SUPPORTED_OPSETS:
        age = "old" if opset < SUPPORTED_OPSETS.start else "new"
        raise InputError(
            f"{path} has opset {opset}, which is too {age}; expected {SUPPORTED_OPSETS.start} to {SUPPORTED_OPSETS.stop - 1}: "
            f"export it with opset {TARGET_OPSET}"
        )
    for index, node in enumerate(model.graph.node):
        where = f"{path}: node {node.name or f'number {index}'} is a {node.op_type}"
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset):
            kind = f"of {node.domain}" if node.domain not in ("", "ai.onnx") else f"unknown to opset {opset}"
            raise InputError(
                f"{where}, {kind}; expected ONNX's own operators: export the graph with these alone"
            )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"):
            raise InputError(
                f"{where}: the graph is quantised; expected a float one: give what it was made from"
            )
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise InputError(
                f"{where}, control flow, which is not calibrated; expected a graph without branches"
            )


def data_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are no weights."""
    constant = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constant]


def _image_input(
    path: Path, model: onnx.ModelProto, layout: Layout | None, size: tuple[int, int] | None
) -> ImageInput:
    inputs = data_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{path} has {len(inputs)} inputs ({names}); expected one, an image")
    (value,) = inputs
    kind = value.type.tensor_type
    named = f"{path}: input {value.name}"
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise InputError(f"{named} is {name}; expected float32: export the graph in float32")
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]  # some write -1 for open
    shape = f"({', '.join(str(d or '?') for d in dims)})"
    if len(dims) != 4:
        raise InputError(f"{named} has shape {shape}; expected an image, (N, C, H, W) or (N, H, W, C)")
    if dims[0] not in (None, 1):
        raise InputError(f"{named} has a batch of {dims[0]}; expected 1 or a dynamic one: export it so")
    fitting = [name for name, axis in (("nchw", 1), ("nhwc", 3)) if dims[axis] in (1, 3)]
    chosen = layout or (fitting[0] if len(fitting) == 1 else None)
    if chosen is None:
        raise InputError(
            f"{named} has shape {shape}, which leaves the layout open: say --layout nchw or nhwc"
        )
    if chosen not in fitting:
        raise InputError(
            f"{named} has shape {shape}, which is no image in {chosen}; expected 1 or 3 channels"
            + (f": it fits {fitting[0]}" if fitting else "")
        )
    channels, height, width = (dims[a] for a in ((1, 2, 3) if chosen == "nchw" else (3, 1, 2)))
    if size is not None:
        if (width or size[0], height or size[1]) != size:
            raise InputError(
                f"--size is {size[0]}x{size[1]}; {named} has shape {shape}: leave it out, or give what fits"
            )
        width, height = size
    if width is None or height is None or channels is None:
        raise InputError(f"{named} has shape {shape}, of open size; say which: --size WIDTHxHEIGHT")
    for axis, side in zip((2, 3) if chosen == "nchw" else (1, 2), (height, width), strict=True):
        kind.shape.dim[axis].dim_value = side
    if dims[0] is None:
        kind.shape.dim[0].dim_param = "batch"
    return ImageInput(width, height, channels, "nchw" if chosen == "nchw" else "nhwc")


def select_output(path: Path, model: onnx.ModelProto, output: str | None) -> str:
    """Return the name of the output that is judged: the one asked for, or the first.

    Raises:
        InputError: there is no such output, or it is not float32.
    """
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    chosen = output or next(iter(kinds))
    if chosen not in kinds:
        raise InputError(f"{path} has no output {chosen!r}; expected one of {', '.join(kinds)}")
    if kinds[chosen] != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kinds[chosen]).lower()
        raise InputError(f"{path}: output {chosen} is {name}; expected float32: name another with --output")
    return chosen


def _convert_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    if _opset(model) == TARGET_OPSET:
        return model
    del model.graph.value_info[:]
    try:
        return version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # its exceptions share no base of their own
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} cannot be brought from opset {_opset(model)} to {TARGET_OPSET} ({reason}): "
            f"export it with opset {TARGET_OPSET}"
        ) from None


def _simplify(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with constants and batch norms folded, by ONNX Runtime, and every node named."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(place)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            simple = onnx.load(place)
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"ONNX Runtime {ort.__version__} cannot run {path} ({reason}); "
                "expected a graph that it runs: export it again"
            ) from None
    used = {node.domain for node in simple.graph.node}
    kept = [entry for entry in simple.opset_import if entry.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    taken: set[str] = set()
    for index, node in enumerate(simple.graph.node):
        node.name = node.name if node.name and node.name not in taken else f"{node.op_type}_{index}"
        taken.add(node.name)
    for tensor in simple.graph.initializer:
        floating = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        if floating and not np.isfinite(onnx.numpy_helper.to_array(tensor)).all():
            raise InputError(f"{path}: weight {tensor.name} is not finite; expected numbers: train it again")
    return simple
