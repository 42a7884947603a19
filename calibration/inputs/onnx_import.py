"""Import of ONNX files from any origin: one float32 image input, and operators that both engines support."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, inliner, version_converter

from calibration.inputs.distribution_shift import ChannelStatistics, statistics_from_batch_norms
from calibration.inputs.graph_inputs import InputFeeder
from calibration.inputs.graph_repair import repair_graph
from calibration.inputs.image_format import Colour, Layout
from calibration.quantization.free_names import FreeNames
from edge.core.errors import InputError
from edge.inference.onnxruntime.session import create_session, describe_error
from edge.preprocessing.transform import Preprocessing

DEFAULT_SCALE, DEFAULT_OFFSET = (1 / 255,), (0.0,)
MAX_MODEL_BYTES = 2**31 - 1
"""Limit of a protobuf message, for a graph with its weights."""
SUPPORTED_OPSETS = range(7, 24)
"""Opsets that can be read. All are converted to `TARGET_OPSET`."""
TARGET_OPSET = 20
"""Q/DQ on float16 needs opset 19; TensorRT 10.3 reads up to 20."""
FIRST_OPSET_WITH_RESIZE_RULES = 11
"""Before, Upsample and Resize had no attributes for how coordinates are mapped and rounded."""
QUANTIZED_OPERATORS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}


# The fields are stored as keys in calibration.json, and the repr is part of the keys of cached histograms.
@dataclass(frozen=True)
class ImageInput:
    """Conversion of a frame to a graph's input: resized by area, then v * scale + offset per channel.

    Attributes:
        width: Width of the input.
        height: Height of the input.
        channels: 1 (grey) or 3.
        layout: "nchw" or "nhwc".
        colour: Order of the channels, "rgb" or "bgr".
        scale: One number, or one per channel in the order of the graph.
        offset: One number, or one per channel in the order of the graph.
    """

    width: int
    height: int
    channels: int
    layout: Layout
    colour: Colour = "rgb"
    scale: tuple[float, ...] = DEFAULT_SCALE
    offset: tuple[float, ...] = DEFAULT_OFFSET

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a frame (H, W, 3), uint8 BGR, as float32 (1, C, height, width) or (1, height, width, C)."""
        image = Preprocessing(self.width, self.height).resize(frame)
        if self.channels == 1:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)[:, :, None]
        elif self.colour == "rgb":
            image = image[:, :, ::-1]
        with np.errstate(over="ignore"):  # the calibration reports activations that are not finite
            scaled = image * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)
        ordered = scaled if self.layout == "nhwc" else scaled.transpose(2, 0, 1)
        return np.ascontiguousarray(ordered[None], np.float32)


@dataclass(frozen=True)
class ImportedGraph:
    """A graph that passed all checks: opset 20, constants folded, every node with a unique name.

    Attributes:
        model: The graph.
        image: Conversion of a frame to its input.
        feeder: Maps a window to its input.
        statistics: Statistics of its batch norms, read before they were folded.
    """

    model: onnx.ModelProto
    image: ImageInput
    feeder: InputFeeder
    statistics: ChannelStatistics


def import_graph(
    path: Path,
    layout: Layout | None = None,
    size: tuple[int, int] | None = None,
    colour: Colour = "rgb",
    scale: Sequence[float] = DEFAULT_SCALE,
    offset: Sequence[float] = DEFAULT_OFFSET,
    output: str | None = None,
) -> ImportedGraph:
    """Read an ONNX file, and check that it can be calibrated.

    Args:
        path: The file.
        layout: Layout of the input; needed if its shape fits both.
        size: Width and height of the input; needed if its shape leaves them open.
        colour: Order of the channels.
        scale: Scale of pixel values, one number or one per channel.
        offset: Offset of pixel values, one number or one per channel.
        output: Name of the output to evaluate; None for the first.

    Raises:
        InputError: If the graph cannot be calibrated. The message names the file, node, input or option.
    """
    model = read_model(path)
    repair_graph(model)
    image = resolve_image_input(path, model, layout, size, colour, scale, offset)
    output = select_output(path, model, output)
    statistics = statistics_from_batch_norms(model)
    model = simplify(path, convert_opset(path, model))
    name = data_inputs(model)[0].name
    return ImportedGraph(model, image, InputFeeder(image, (name,), output), statistics)


def resolve_image_input(
    path: Path,
    model: onnx.ModelProto,
    layout: Layout | None = None,
    size: tuple[int, int] | None = None,
    colour: Colour = "rgb",
    scale: Sequence[float] = DEFAULT_SCALE,
    offset: Sequence[float] = DEFAULT_OFFSET,
) -> ImageInput:
    """Return the conversion of a frame to a graph's only input.

    The graph is changed: open dimensions of its input are set. Arguments are those of `import_graph`.

    Raises:
        InputError: If the input is not a float32 image, or the options do not fit it.
    """
    image = _image_input(path, model, layout, size)
    for option, values in (("--scale", scale), ("--offset", offset)):
        if len(values) not in (1, image.channels) or not np.isfinite(values).all():
            raise InputError(
                f"{option} has {len(values)} numbers; expected 1, or one for each of the input's "
                f"{image.channels} channels, all finite"
            )
    return replace(image, colour=colour, scale=tuple(scale), offset=tuple(offset))


def read_model(path: Path) -> onnx.ModelProto:
    """Return the checked graph of a file, with its weights.

    Raises:
        InputError: It is not a float graph of standard operators, or its weights are missing.
    """
    if not path.is_file():
        raise InputError(f"no file {path}; expected an ONNX graph or a release's folder")
    _check_size(path, path.stat().st_size)
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's DecodeError, which has no types
        model = onnx.ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX file, or is cut off: export it again")
    _check_operators(path, model)
    files = _external_files(path, model)
    _check_size(path, path.stat().st_size + sum(file.stat().st_size for file in files))
    try:
        if files:
            external_data_helper.load_external_data_for_model(model, str(path.parent.resolve()))
        onnx.checker.check_model(model)
    except Exception as error:  # onnx's exceptions share no base class
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} is not a valid ONNX graph ({reason}): export it again") from None
    return model


def _external_files(path: Path, model: onnx.ModelProto) -> set[Path]:
    """Return the files with external data. Files outside the folder of the graph are refused."""
    folder = path.parent.resolve()
    files = set()
    for tensor in _tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise InputError(
                f"{path}: the data of {tensor.name} lies at {location!r}, outside the file's folder, and is "
                "not read; expected it in that folder: save the graph with its data in one folder"
            )
        if not file.is_file():
            raise InputError(
                f"{path}: the data of {tensor.name} is missing, expected at {file}: copy it there"
            )
        files.add(file)
    return files


def _check_size(path: Path, size: int) -> None:
    if size > MAX_MODEL_BYTES:
        raise InputError(
            f"{path} has {size / 2**30:.2f} GiB with its weights; expected at most 2 GiB, the limit of an "
            "ONNX graph: split it, or store its weights in fewer bits"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the standard operators; 0 if the graph names none."""
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


def name_type(elem_type: int) -> str:
    """Return the name of a type of tensors; a damaged file may have one that does not exist."""
    names: dict[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return names.get(elem_type, f"of the unknown type {elem_type}")


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if opset not in SUPPORTED_OPSETS:
        age = "old" if opset < SUPPORTED_OPSETS.start else "new"
        raise InputError(
            f"{path} has opset {opset}, which is too {age}; expected {SUPPORTED_OPSETS.start} to "
            f"{SUPPORTED_OPSETS.stop - 1}: export it with opset {TARGET_OPSET}"
        )
    for index, node in enumerate(model.graph.node):
        prefix = f"{path}: node {node.name or f'number {index}'} is a {node.op_type}"
        # In a damaged file the name may be bytes that are no text.
        is_known = node.op_type.isascii() and onnx.defs.has(node.op_type, opset)
        if node.domain not in ("", "ai.onnx") or not is_known:
            origin = (
                f"of {node.domain}" if node.domain not in ("", "ai.onnx") else f"unknown to opset {opset}"
            )
            raise InputError(
                f"{prefix}, {origin}; expected standard ONNX operators: export the graph with these only"
            )
        if node.op_type in QUANTIZED_OPERATORS:
            raise InputError(
                f"{prefix}: the graph is quantized; expected a float graph: give the one it was made from"
            )
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise InputError(
                f"{prefix}, control flow, which is not supported; expected a graph without branches"
            )


def data_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph that are not weights."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _image_input(
    path: Path, model: onnx.ModelProto, layout: Layout | None, size: tuple[int, int] | None
) -> ImageInput:
    inputs = data_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{path} has {len(inputs)} inputs ({names}); expected one, an image")
    (value,) = inputs
    tensor_type = value.type.tensor_type
    prefix = f"{path}: input {value.name}"
    if tensor_type.elem_type != TensorProto.FLOAT:
        raise InputError(
            f"{prefix} is {name_type(tensor_type.elem_type)}; expected float32: export the graph in float32"
        )
    # Some exporters write -1 for an open dimension.
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor_type.shape.dim]
    shape = f"({', '.join(str(d or '?') for d in dims)})"
    if len(dims) != 4:
        raise InputError(f"{prefix} has shape {shape}; expected an image, (N, C, H, W) or (N, H, W, C)")
    if dims[0] not in (None, 1):
        raise InputError(f"{prefix} has a batch of {dims[0]}; expected 1 or a dynamic one: export it so")
    layout = _resolve_layout(prefix, shape, dims, layout)
    channels, height, width = (dims[a] for a in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
    if size is not None:
        if (width or size[0], height or size[1]) != size:
            raise InputError(
                f"--size is {size[0]}x{size[1]}; {prefix} has shape {shape}: leave --size out, or give a "
                "size that fits"
            )
        width, height = size
    if width is None or height is None or channels is None:
        raise InputError(f"{prefix} has shape {shape}, of open size; set it: --size WIDTHxHEIGHT")
    for axis, side in zip((2, 3) if layout == "nchw" else (1, 2), (height, width), strict=True):
        tensor_type.shape.dim[axis].dim_value = side
    if dims[0] is None:
        tensor_type.shape.dim[0].dim_param = "batch"
    return ImageInput(width, height, channels, layout)


def _resolve_layout(prefix: str, shape: str, dims: Sequence[int | None], layout: Layout | None) -> Layout:
    """Return the layout, which must have 1 or 3 channels."""
    axes: tuple[tuple[Layout, int], ...] = (("nchw", 1), ("nhwc", 3))
    fitting = [name for name, axis in axes if dims[axis] in (1, 3)]
    layout = layout or (fitting[0] if len(fitting) == 1 else None)
    if layout is None:
        raise InputError(
            f"{prefix} has shape {shape}, which leaves the layout open: set --layout nchw or nhwc"
        )
    if layout not in fitting:
        raise InputError(
            f"{prefix} has shape {shape}, which is not an image in {layout}; expected 1 or 3 channels"
            + (f": it fits {fitting[0]}" if fitting else "")
        )
    return layout


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Let the name of each node be its own, in place."""
    free_name = FreeNames(graph)
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in names:
            node.name = free_name(f"{node.op_type}_{index}")
        names.add(node.name)


def select_output(path: Path, model: onnx.ModelProto, output: str | None) -> str:
    """Return the name of the output to evaluate: the given one, or the first.

    Raises:
        InputError: If there is no such output, or it is not float32.
    """
    types = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    name = output or next(iter(types))
    if name not in types:
        raise InputError(f"{path} has no output {name!r}; expected one of {', '.join(types)}")
    if types[name] != TensorProto.FLOAT:
        dtype = name_type(types[name])
        raise InputError(f"{path}: output {name} is {dtype}; expected float32: name another with --output")
    return name


def convert_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in `TARGET_OPSET`.

    Raises:
        InputError: An operator cannot be converted.
    """
    if opset_of(model) == TARGET_OPSET:
        return model
    del model.graph.value_info[:]
    try:
        if opset_of(model) > TARGET_OPSET:
            model = _inline_newer_operators(model)
            if not any(_is_newer(node, opset_of(model)) for node in model.graph.node):
                # Later opsets added nothing but types to these operators. The converter knows few of them.
                next(i for i in model.opset_import if i.domain in ("", "ai.onnx")).version = TARGET_OPSET
                return model
        opset, model = opset_of(model), version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # its exceptions share no base class
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} cannot be converted from opset {opset_of(model)} to {TARGET_OPSET} ({reason}): "
            f"export it with opset {TARGET_OPSET}"
        ) from None
    if opset < FIRST_OPSET_WITH_RESIZE_RULES:
        _state_resize_rules(model.graph)
    return model


def _state_resize_rules(graph: onnx.GraphProto) -> None:
    """Let each Resize sample as Upsample and the first Resize did, in place; later defaults differ.

    The converter adds no attributes for it, so that bilinear maps would be shifted by half a pixel.
    """
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            scales[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    for node in graph.node:
        if node.op_type == "Resize":
            shrinks = len(node.input) > 2 and bool((scales.get(node.input[2], np.ones(1)) < 1).any())
            rules = {
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "ceil" if shrinks else "floor",
            }
            kept = [a for a in node.attribute if a.name not in rules]
            del node.attribute[:]
            node.attribute.extend([*kept, *(onnx.helper.make_attribute(*rule) for rule in rules.items())])


def _inline_newer_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the bodies of operators that `TARGET_OPSET` lacks or has in another form."""
    opset = opset_of(model)
    newer = {node.op_type for node in model.graph.node if _is_newer(node, opset)}
    if not newer:
        return model
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    constants = [
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    ]
    model.graph.value_info.extend(constants)  # the bodies depend on types, those of weights included
    names = [("", name) for name in sorted(newer)]
    model = inliner.inline_selected_functions(model, names, inline_schema_functions=True)
    del model.graph.value_info[:]
    return model


def _is_newer(node: onnx.NodeProto, opset: int) -> bool:
    """Return whether an operator is not the same in `TARGET_OPSET`, types apart."""
    if not onnx.defs.has(node.op_type, TARGET_OPSET):
        return True
    now, then = (onnx.defs.get_schema(node.op_type, version) for version in (opset, TARGET_OPSET))
    return now.attributes.keys() != then.attributes.keys() or len(now.inputs) != len(then.inputs)


def simplify(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with constants and batch norms folded by ONNX Runtime, and unique node names.

    Raises:
        InputError: ONNX Runtime cannot run it, or a weight is not finite.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(file)
        try:
            create_session(model.SerializeToString(), options)
            simplified = onnx.load(file)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise InputError(
                f"ONNX Runtime {ort.__version__} cannot run {path} ({describe_error(error)}); "
                "expected a graph that it supports: export it again"
            ) from None
    used_domains = {node.domain for node in simplified.graph.node}
    opsets = [entry for entry in simplified.opset_import if entry.domain in used_domains]
    del simplified.opset_import[:]
    simplified.opset_import.extend(opsets)
    _name_nodes(simplified.graph)
    for tensor in simplified.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            _make_finite(path, tensor)
    return simplified


def _make_finite(path: Path, tensor: TensorProto) -> None:
    """Replace -inf, as masks of attention have it, by the lowest number, in place.

    Raises:
        InputError: The tensor has NaN or +inf, as after a training that diverged.
    """
    values = onnx.numpy_helper.to_array(tensor)
    if np.isfinite(values).all():
        return
    masked = np.where(np.isneginf(values), np.finfo(values.dtype).min, values)
    if not np.isfinite(masked).all():
        raise InputError(
            f"{path}: weight {tensor.name} is not finite; expected finite numbers: train it again"
        )
    tensor.CopyFrom(onnx.numpy_helper.from_array(masked, tensor.name))
