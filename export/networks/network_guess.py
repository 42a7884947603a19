"""Finds out how a network takes frames and gives its map: from the user's options, and from the graph.

Only what the graph settles is guessed. All that is missing is asked for at once, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, ValueInfoProto

from calibration.inputs.graph_repair import widen_float16
from calibration.inputs.onnx_import import data_inputs, name_type
from edge.core.errors import InputError
from edge.inference.onnxruntime.session import create_session, describe_error
from edge.release.release import StateSpec
from export.graphs.graph_end import last_nodes
from export.graphs.onnx_export import SALIENCY
from export.networks.network_adapter import FRAME
from export.networks.network_format import Activation, NetworkInput, NetworkLayout, NetworkOutput

Size = tuple[int, int]
Preset = Literal["imagenet", "unit", "symmetric", "raw"]
PRESETS: dict[Preset, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
    "raw": ((0.0,), (1 / 255,)),
}
"""Mean and deviation of the channels (red, green, blue), in units in which the brightest value is 1."""
DTYPES: dict[int, Literal["float32", "uint8"]] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
LAYOUTS_OF_RANK: dict[int, tuple[NetworkLayout, ...]] = {
    4: ("nchw", "nhwc"),
    5: ("ncthw", "ntchw", "nthwc"),
}
FINISHED: dict[str, Activation] = {
    "Sigmoid": "none",
    "HardSigmoid": "none",
    "Softmax": "none",
    "Exp": "none",
    "LogSoftmax": "logsoftmax",
}
"""What is left to apply behind the operator that makes a network's output."""


@dataclass(frozen=True)
class NetworkOptions:
    """What the user said about a network; None or empty for what was not said.

    Attributes:
        size: Width and height of a frame.
        layout: Order of the axes of the input.
        window: Frames that the network takes at once.
        colour: Order of the channels.
        preset: Name of a common mean and deviation.
        mean: Mean of the channels.
        std: Deviation of the channels.
        output: Name of the output with the map.
        activation: Function from the output to the map.
        map_size: Width and height of the map.
        channel: Place of the map among the channels of the output, from the end if it is negative.
        states: Names of the input and the output of each recurrent state.
    """

    size: Size | None = None
    layout: NetworkLayout | None = None
    window: int | None = None
    colour: Literal["rgb", "bgr"] | None = None
    preset: Preset | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    output: str | None = None
    activation: Activation | None = None
    map_size: Size | None = None
    channel: int | None = None
    states: tuple[tuple[str, str], ...] = ()


@dataclass
class _Missing:
    """What the graph leaves open, as options to give."""

    path: Path
    options: list[str] = field(default_factory=list)

    def add(self, what: str, option: str) -> None:
        self.options.append(f"{what} ({option})")

    def check(self) -> None:
        if self.options:
            raise InputError(f"{self.path} does not say: {', '.join(self.options)}; give these options")


@dataclass(frozen=True)
class Network:
    """A network from elsewhere and how to use it.

    Attributes:
        path: Its file.
        model: Its graph, as the file has it, but with float32 in place of float16.
        source: How it takes frames.
        target: How it gives its map.
        states: Its recurrent states.
        notes: What the options said and the graph made needless, one sentence each.
    """

    path: Path
    model: onnx.ModelProto
    source: NetworkInput
    target: NetworkOutput
    states: tuple[StateSpec, ...]
    notes: tuple[str, ...]


def describe_network(path: Path, model: onnx.ModelProto, options: NetworkOptions) -> Network:
    """Return how a network is used.

    Args:
        path: The file.
        model: Its graph, as `calibration.inputs.onnx_import.read_model` returns it. float16 becomes float32.
        options: What the user said.

    Raises:
        InputError: Options are missing, contradict the graph, or the network is of another kind.
    """
    widen_float16(model.graph)
    missing = _Missing(path)
    states = _find_states(path, model, options.states)
    source = _describe_input(path, model, options, missing)
    output = _select_output(path, model, options, missing)
    activation, notes = options.activation, []
    if output is not None:
        finished = _finished_activation(model, output)
        if activation is None:
            activation = finished
        elif finished == "none" and _ends_in(model, output, activation):
            notes.append(f"output {output} has its {activation} already: none is added")
            activation = "none"
        if activation is None:
            missing.add("what makes a map of its output", "--activation sigmoid|softmax|logsoftmax|none")
    missing.check()
    assert source is not None
    if states and source.frames > 1:
        raise InputError(
            f"{path} takes {source.frames} frames at once and has states; expected frames without states, or "
            "one frame and states: leave --window or --state out, or export it so"
        )
    assert output is not None
    assert activation is not None
    shape = _output_shape(path, model, source, output, states)
    target = _describe_output(path, output, shape, activation, options, source.frames)
    return Network(path, model, source, target, states, tuple(notes))


def _find_states(
    path: Path, model: onnx.ModelProto, pairs: Sequence[tuple[str, str]]
) -> tuple[StateSpec, ...]:
    inputs = {value.name: value for value in data_inputs(model)}
    outputs = {value.name for value in model.graph.output}
    states = []
    for name, output in pairs:
        if name not in inputs or output not in outputs or {FRAME, SALIENCY} & {name, output}:
            raise InputError(
                f"--state {name}={output} does not fit {path}; expected one of its inputs "
                f"({', '.join(inputs)}) and one of its outputs ({', '.join(outputs)}), not called {FRAME} or "
                f"{SALIENCY}, which are the release's own: rename the state in the graph"
            )
        tensor = inputs[name].type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim]
        shape[:1] = [side or 1 for side in shape[:1]]  # the batch
        if not shape or min(shape) < 1 or tensor.elem_type != TensorProto.FLOAT:
            raise InputError(
                f"{path}: state {name} has shape {_shape_text(inputs[name])}, or is not float32; expected a "
                "float32 state of a fixed shape: export the graph so"
            )
        states.append(StateSpec(name, output, tuple(shape), 0.0))
    return tuple(states)


def _dims(value: ValueInfoProto) -> list[int | None]:
    """Return the sides of a tensor. Some exporters write -1 for an open one."""
    return [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]


def _shape_text(value: ValueInfoProto) -> str:
    return f"({', '.join(str(side or '?') for side in _dims(value))})"


def _describe_input(
    path: Path, model: onnx.ModelProto, options: NetworkOptions, missing: _Missing
) -> NetworkInput | None:
    """Return how the network takes frames; None if something is missing."""
    carried = {name for name, _ in options.states}
    inputs = [value for value in data_inputs(model) if value.name not in carried]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(
            f"{path} has the inputs {names}; expected one, which takes the frames: name each recurrent "
            "state with --state INPUT=OUTPUT"
        )
    value = inputs[0]
    dtype = DTYPES.get(value.type.tensor_type.elem_type)
    if dtype is None:
        name = name_type(value.type.tensor_type.elem_type)
        raise InputError(
            f"{path}: input {value.name} is {name}; expected float32, float16 or uint8: export it so"
        )
    dims = _dims(value)
    layout = _find_layout(path, value, options, missing)
    if layout is None:
        return None
    sides = dict(zip(layout, dims, strict=True))
    if sides["n"] not in (None, 1):
        raise InputError(
            f"{path}: input {value.name} has a batch of {sides['n']}; expected 1 or a dynamic one: export "
            "it so"
        )
    frames = _find_window(value, sides, layout, options.window, missing)
    channels = sides["c"] or 3
    if layout == "nchw" and frames and frames > 1 and sides["c"]:
        channels = sides["c"] // frames
    size = _find_size(path, value, sides, options.size, missing)
    values = _find_values(path, dtype, channels, options, missing)
    colour = options.colour or ("rgb" if channels == 1 or options.preset == "imagenet" else None)
    if colour is None:
        missing.add("the order of its channels", "--colour rgb|bgr")
    if frames is None or size is None or values is None or colour is None:
        return None
    return NetworkInput(value.name, dtype, *size, channels, frames, layout, colour, *values)


def _find_layout(
    path: Path, value: ValueInfoProto, options: NetworkOptions, missing: _Missing
) -> NetworkLayout | None:
    """Return the layout whose channels are 1 or 3, or as many for each frame of the window."""
    dims = _dims(value)
    layouts = LAYOUTS_OF_RANK.get(len(dims), ())
    if not layouts:
        raise InputError(
            f"{path}: input {value.name} has shape {_shape_text(value)}; expected frames, such as "
            "(1, 3, H, W), (1, H, W, 3) or (1, 3, T, H, W)"
        )
    stacked = [channels * options.window for channels in (1, 3)] if options.window else []
    fitting = [
        layout
        for layout in layouts
        if (side := dims[layout.index("c")]) in (1, 3) or (layout == "nchw" and side in stacked)
    ]
    if options.layout is not None:
        side = dims[options.layout.index("c")] if options.layout in layouts else -1
        if options.layout not in fitting and side is not None:
            raise InputError(
                f"--layout {options.layout} does not fit input {value.name} of shape {_shape_text(value)}; "
                "expected 1 or 3 channels"
                + (f": it fits {', '.join(fitting)}" if fitting else ", or --window T times as many")
            )
        return options.layout
    if len(fitting) != 1:
        missing.add(f"the layout of its input {_shape_text(value)}", f"--layout {'|'.join(layouts)}")
        return None
    return fitting[0]


def _find_window(
    value: ValueInfoProto,
    sides: dict[str, int | None],
    layout: NetworkLayout,
    window: int | None,
    missing: _Missing,
) -> int | None:
    if "t" not in layout:
        window = window or 1
        if window > 1 and (layout != "nchw" or sides["c"] not in (None, window, 3 * window)):
            raise InputError(
                f"--window {window} does not fit input {value.name} {_shape_text(value)} in {layout}; "
                f"expected (N, {window}, H, W), (N, {3 * window}, H, W) or an axis for time: leave it out"
            )
        return window
    if window and sides["t"] not in (None, window):
        raise InputError(f"--window is {window}; the network takes {sides['t']} frames: leave --window out")
    frames = sides["t"] or window
    if frames is None:
        missing.add("how many frames it takes", "--window T")
    return frames


def _find_size(
    path: Path,
    value: ValueInfoProto,
    sides: dict[str, int | None],
    size: Size | None,
    missing: _Missing,
) -> Size | None:
    width, height = sides["w"], sides["h"]
    if size is not None:
        if (width or size[0], height or size[1]) != size:
            raise InputError(
                f"--size is {size[0]}x{size[1]}; {path} takes {width or '?'}x{height or '?'} (input "
                f"{value.name} {_shape_text(value)}): leave --size out, or give a size that fits"
            )
        return size
    if width is None or height is None:
        missing.add(f"the size of its frames {_shape_text(value)}", "--size WxH")
        return None
    return width, height


def _find_values(
    path: Path, dtype: str, channels: int, options: NetworkOptions, missing: _Missing
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return scale and offset of each channel, for values from 0 to 255."""
    is_given = options.preset is not None or options.mean or options.std
    if dtype == "uint8":
        if is_given:
            raise InputError(
                f"{path} takes uint8, so the values of the frame as they are: leave --preset, --mean and "
                "--std out"
            )
        return (1.0,) * channels, (0.0,) * channels
    if options.preset is not None and (options.mean or options.std):
        raise InputError("--preset gives mean and deviation: leave --mean and --std out, or --preset")
    mean, std = (options.mean, options.std) if options.preset is None else PRESETS[options.preset]
    if options.preset is not None and options.colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    if not mean or not std:
        missing.add("the range of its values", "--preset imagenet|unit|symmetric|raw, or --mean and --std")
        return None
    for option, numbers in (("--mean", mean), ("--std", std)):
        if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
            raise InputError(
                f"{option} has {len(numbers)} numbers; expected 1, or one for each of the input's {channels} "
                "channels, all finite" + (": --preset is for colour" if options.preset else "")
            )
    if min(map(abs, std)) == 0:
        raise InputError("--std has a 0; expected the deviation that values are divided by")
    unit = 255.0 if max(map(abs, (*mean, *std))) <= 1 else 1.0  # else they are in grey levels, 0 to 255
    means, deviations = (np.broadcast_to(numbers, channels) for numbers in (mean, std))
    scale, offset = 1 / (unit * deviations), -means / deviations
    return tuple(map(float, scale)), tuple(map(float, offset))


def _select_output(
    path: Path, model: onnx.ModelProto, options: NetworkOptions, missing: _Missing
) -> str | None:
    carried = {name for _, name in options.states}
    names: list[str] = [value.name for value in model.graph.output]
    if options.output is not None:
        if options.output not in names:
            raise InputError(f"{path} has no output {options.output!r}; expected one of {', '.join(names)}")
        return options.output
    candidates = [name for name in names if name not in carried]
    if len(candidates) != 1:
        missing.add("which output is the map", f"--output {'|'.join(candidates or names)}")
        return None
    return candidates[0]


def _finished_activation(model: onnx.ModelProto, output: str) -> Activation | None:
    """Return what the end of the graph leaves to apply; None if it does not tell."""
    producers = {name: node for node in model.graph.node for name in node.output}
    operators = [node.op_type for node in last_nodes(output, producers)]
    return next((FINISHED[operator] for operator in operators if operator in FINISHED), None)


def _ends_in(model: onnx.ModelProto, output: str, activation: Activation) -> bool:
    producers = {name: node for node in model.graph.node for name in node.output}
    operators = {node.op_type.lower() for node in last_nodes(output, producers)}
    return activation in operators or (activation in ("softmax", "logsoftmax") and "exp" in operators)


def _output_shape(
    path: Path, model: onnx.ModelProto, source: NetworkInput, output: str, states: Sequence[StateSpec]
) -> tuple[int, ...]:
    """Return the shape of the output, from a run on a black frame."""
    session = open_network(path, model)
    black = np.zeros((source.height, source.width, 3), np.uint8)
    feed: dict[str, Any] = {source.name: source.convert([black] * source.frames)}
    feed |= {state.input: np.zeros(state.shape, np.float32) for state in states}
    try:
        (value,) = session.run([output], feed)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"{path} does not run on frames of {source.width}x{source.height} ({describe_error(error)}): "
            "give the size that it was made for with --size"
        ) from None
    return tuple(value.shape)


def open_network(path: Path, model: onnx.ModelProto) -> ort.InferenceSession:
    """Open a network as it is with ONNX Runtime.

    Args:
        path: Its file, for errors.
        model: Its graph.

    Raises:
        InputError: ONNX Runtime cannot run it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return create_session(model.SerializeToString(), options)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"ONNX Runtime {ort.__version__} cannot run {path} ({describe_error(error)}); expected a graph "
            "that it supports: export it again"
        ) from None


def _describe_output(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    activation: Activation,
    options: NetworkOptions,
    frames: int,
) -> NetworkOutput:
    """Return how the network gives its map, from the shape of its output.

    If there is a map for each of the window's `frames`, the last one counts, that of the newest frame.
    """
    map_size, channel = options.map_size, options.channel
    found = _find_map(shape, map_size)
    axis = _find_axis(shape, frames) if found is None else None
    if axis is None and channel is not None:
        raise InputError(f"{path}: output {name} has shape {shape}, without channels: leave --channel out")
    if axis is not None:
        channel = -1 if channel is None and shape[axis] == frames else channel
        found = None if channel is None else _find_map(shape[:axis] + shape[axis + 1 :], map_size)
    if found is None:
        remedy = "name another with --output"
        if axis is not None:
            remedy = f"choose one of its {shape[axis]} channels with --channel, or {remedy}"
        elif len(shape) == 2 and shape[0] == 1:
            remedy = f"give its size with --map WxH, {shape[1]} pixels"
        raise InputError(
            f"{path}: output {name} has shape {shape}; expected one map, such as (1, 1, H, W): {remedy}"
        )
    width, height = found
    target = NetworkOutput(name, width, height, activation, *(map_size or found))
    if axis is None or channel is None:
        return target
    if not -shape[axis] <= channel < shape[axis]:
        raise InputError(
            f"--channel is {channel}; output {name} has {shape[axis]} channels: expected "
            f"{-shape[axis]} to {shape[axis] - 1}"
        )
    return replace(target, axis=axis, index=channel % shape[axis])


def _find_axis(shape: tuple[int, ...], frames: int) -> int | None:
    """Return the axis along which several maps lie, None if no axis leaves one map.

    It is the one with a map for each of the window's frames, else the shortest.
    """
    first, last = range(len(shape) - 2), [*range(len(shape) - 3), len(shape) - 1]
    longer = ([axis for axis in others if shape[axis] > 1] for others in (first, last))
    candidates = [axes[0] for axes in longer if len(axes) == 1 and len(shape) > 2]
    return min(candidates, key=lambda axis: (shape[axis] != frames, shape[axis]), default=None)


def _find_map(shape: tuple[int, ...], map_size: Size | None) -> Size | None:
    """Return width and height of the one map in a tensor of this shape; None if it holds something else."""
    if len(shape) == 2 and shape[0] == 1:  # flat
        return map_size if map_size is not None and map_size[0] * map_size[1] == shape[1] else None
    if len(shape) < 2:
        return None
    *others, height, width = shape
    if width == 1 and len(shape) > 2:  # channels last
        *others, height, width = shape[:-1]
    return (width, height) if set(others) <= {1} and min(height, width) > 1 else None
