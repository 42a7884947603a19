"""Strategy of hypothesis for small ONNX networks, written in the ways in which exporters write them.

A network takes x (1, 3, HEIGHT, WIDTH), or the same in NHWC. It has a random chain of blocks between two
convolutions, and gives y (1, 1, h, w).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

WIDTH, HEIGHT = 24, 16
OPSETS = (7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22, 23)
UNLUCKY_NAMES = ("t_dq", "x_q", "t", "x_half", "t_q", "t_scale", "t_dq1", "t_q_dq", "t.float", "t.exact")
"""Names that a conversion may invent."""


@dataclass(frozen=True)
class Style:
    """Ways to write the same network.

    Attributes:
        opset: Opset of the standard operators.
        constants: Weights are "initializers", "inputs" as well, or outputs of Constant nodes ("nodes").
        names: Names of nodes and tensors: "plain", "empty" for nodes, or "unlucky".
        half: "none", "inside" a Cast to float16 and one back, or "all" of the graph.
        is_open: Batch, height and width of the input are open.
        layout: Layout of the input.
        has_stale_shapes: `value_info` has the shapes of another input.
        writes_empty_names: A missing bias is written as an empty name.
    """

    opset: int = 20
    constants: str = "initializers"
    names: str = "plain"
    half: str = "none"
    is_open: bool = False
    layout: str = "nchw"
    has_stale_shapes: bool = False
    writes_empty_names: bool = False


STYLES = st.builds(
    Style,
    opset=st.sampled_from(OPSETS),
    constants=st.sampled_from(["initializers", "inputs", "nodes"]),
    names=st.sampled_from(["plain", "empty", "unlucky"]),
    half=st.sampled_from(["none", "none", "inside", "all"]),
    is_open=st.booleans(),
    layout=st.sampled_from(["nchw", "nhwc"]),
    has_stale_shapes=st.booleans(),
    writes_empty_names=st.booleans(),
)


class NetworkSketch:
    """Builder of a network: keeps the shape (channels, height, width) of the value that it is at."""

    def __init__(self, style: Style, seed: int) -> None:
        self.style, self.opset = style, style.opset
        self.random = np.random.default_rng(seed)
        self.channels, self.height, self.width = 3, HEIGHT, WIDTH
        self.nodes: list[NodeProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.earlier: list[tuple[str, tuple[int, int, int]]] = []
        self._weights: list[TensorProto] = []
        self._unlucky = list(UNLUCKY_NAMES) if style.names == "unlucky" else []
        self._float = TensorProto.FLOAT if style.half == "none" else TensorProto.FLOAT16
        self._names = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the current value, without the batch."""
        return self.channels, self.height, self.width

    @property
    def float_type(self) -> int:
        """Type of the values inside."""
        return self._float

    def name(self, wanted: str) -> str:
        """Return a new name of a tensor."""
        self._names += 1
        return self._unlucky.pop(0) if self._unlucky else f"{wanted}{self._names}"

    def constant(self, value: Any, dtype: Any = np.float32, is_weight: bool = True) -> str:
        """Add a constant; weights have the type of the values inside."""
        array = np.asarray(value, dtype)
        if is_weight and array.dtype == np.float32 and self._float == TensorProto.FLOAT16:
            array = array.astype(np.float16)
        name = f"k{len(self._weights)}_{len(self.nodes)}"
        if self.style.constants == "nodes":
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            )
        else:
            self._weights.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, *values: int) -> str:
        """Add a constant of whole numbers."""
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        outputs = [self.name("t") for _ in range(count)]
        name = "" if self.style.names == "empty" else f"n{len(self.nodes)}"
        if self.style.names == "unlucky" and operator == "Conv":
            name = f"Conv_{len(self.nodes) + 1}" if len(self.nodes) % 2 else ""
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def convolve(self, x: str, channels: int, side: int = 3, bias: bool = True, **attributes: Any) -> str:
        """Add a convolution of the current value, and change its shape."""
        group, stride = attributes.get("group", 1), attributes.get("strides", [1, 1])[0]
        dilation = attributes.get("dilations", [1, 1])[0]
        fan = self.channels // group * side * side
        weight = self.random.normal(0, 1.4 / np.sqrt(fan), (channels, self.channels // group, side, side))
        inputs = [x, self.constant(weight)]
        if bias:
            inputs.append(self.constant(self.random.normal(0, 0.1, channels)))
        elif self.style.writes_empty_names:
            inputs.append("")
        if "auto_pad" not in attributes:
            attributes["pads"] = [side // 2 * dilation] * 4
        self.channels = channels
        self.height, self.width = -(-self.height // stride), -(-self.width // stride)
        return self.add("Conv", *inputs, **attributes)

    def build(self, y: str) -> onnx.ModelProto:
        """Return the network."""
        style, value = self.style, helper.make_tensor_value_info
        outer = TensorProto.FLOAT16 if style.half == "all" else TensorProto.FLOAT
        sides: list[str | int] = ["h", "w"] if style.is_open else [HEIGHT, WIDTH]
        batch: str | int = "n" if style.is_open else 1
        shape = [batch, 3, *sides] if style.layout == "nchw" else [batch, *sides, 3]
        inputs = [value("x", outer, shape)]
        if style.constants == "inputs":
            inputs += [value(t.name, t.data_type, list(t.dims)) for t in self._weights]
        outputs = [value(y, outer, ["b", "c", "oh", "ow"]), *self.outputs]
        graph = helper.make_graph(self.nodes, "network", inputs, outputs, self._weights)
        ir = 3 if style.constants == "inputs" and style.opset < 9 else 8 if style.opset < 20 else 10
        opsets = [helper.make_opsetid("", style.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
        if style.has_stale_shapes:
            for node in self.nodes:
                if node.op_type in ("Conv", "Relu"):
                    stale = value(node.output[0], self._float, ["n", "c", "stale_h", "stale_w"])
                    model.graph.value_info.append(stale)
        return model


Block = Callable[[NetworkSketch, str], str]


def _activation(operator: str, since: int = 7, **attributes: Any) -> tuple[int, Block]:
    return since, lambda net, x: net.add(operator, x, **attributes)


def _clip(net: NetworkSketch, x: str) -> str:
    if net.opset < 11:
        return net.add("Clip", x, min=0.0, max=6.0)
    return net.add("Clip", x, net.constant(0.0), net.constant(6.0))


def _prelu(net: NetworkSketch, x: str) -> str:
    return net.add("PRelu", x, net.constant(np.full((net.channels, 1, 1), 0.2)))


def _batch_norm(net: NetworkSketch, x: str) -> str:
    c, random = net.channels, net.random
    values = (random.uniform(0.5, 1.5, c), random.normal(0, 0.1, c), random.normal(0, 0.1, c), np.ones(c))
    return net.add("BatchNormalization", x, *(net.constant(v) for v in values))


def _instance_norm(net: NetworkSketch, x: str) -> str:
    ones, zeros = np.ones(net.channels), np.zeros(net.channels)
    return net.add("InstanceNormalization", x, net.constant(ones), net.constant(zeros))


def _layer_norm(net: NetworkSketch, x: str) -> str:
    x = net.add("Transpose", x, perm=[0, 2, 3, 1])
    x = net.add("LayerNormalization", x, net.constant(np.ones(net.channels)), axis=-1)
    return net.add("Transpose", x, perm=[0, 3, 1, 2])


def _group_norm(net: NetworkSketch, x: str) -> str:
    ones = np.ones(net.channels)
    return net.add(
        "GroupNormalization", x, net.constant(ones), net.constant(0 * ones), num_groups=net.channels
    )


def _reduce(net: NetworkSketch, operator: str, x: str, axes: Sequence[int], keepdims: int = 1) -> str:
    if net.opset >= (13 if operator == "ReduceSum" else 18):
        return net.add(operator, x, net.whole(*axes), keepdims=keepdims)
    return net.add(operator, x, axes=axes, keepdims=keepdims)


def _squeeze_excite(net: NetworkSketch, x: str) -> str:
    pooled = net.add("GlobalAveragePool", x)
    shape = net.shape
    net.height = net.width = 1
    gate = net.add("Sigmoid", net.convolve(pooled, net.channels, 1))
    net.channels, net.height, net.width = shape
    return net.add("Mul", x, gate)


def _mean_norm(net: NetworkSketch, x: str) -> str:
    centred = net.add("Sub", x, _reduce(net, "ReduceMean", x, [2, 3]))
    square = _reduce(net, "ReduceMean", net.add("Mul", centred, centred), [2, 3])
    return net.add("Div", centred, net.add("Sqrt", net.add("Add", square, net.constant(0.01))))


def _peak_norm(net: NetworkSketch, x: str) -> str:
    low = _reduce(net, "ReduceMin", x, [1, 2, 3])
    high = _reduce(net, "ReduceMax", x, [1, 2, 3])
    span = net.add("Add", net.add("Sub", high, low), net.constant(0.01))
    return net.add("Div", net.add("Sub", x, low), span)


def _residual(net: NetworkSketch, x: str) -> str:
    inner = net.add("Relu", net.convolve(x, net.channels))
    return net.add("Add", net.convolve(inner, net.channels), x)


def _add_constant(net: NetworkSketch, x: str) -> str:
    convolved = net.convolve(x, net.channels)
    return net.add("Add", convolved, net.constant(net.random.normal(0, 0.3, (1, *net.shape))))


def _concat_constant(net: NetworkSketch, x: str) -> str:
    prior = net.constant(net.random.uniform(0, 1, (1, 16, net.height, net.width)))
    net.channels += 16
    return net.convolve(net.add("Concat", x, prior, axis=1), 16)


def _concat_earlier(net: NetworkSketch, x: str) -> str:
    fitting = [(name, s) for name, s in net.earlier if s[1:] == net.shape[1:]]
    if not fitting:
        return net.add("Identity", x)
    name, shape = fitting[int(net.random.integers(len(fitting)))]
    net.channels += shape[0]
    return net.convolve(net.add("Concat", x, name, axis=1), 16)


def _depthwise(net: NetworkSketch, x: str) -> str:
    x = net.convolve(x, net.channels, 3, group=net.channels)
    return net.convolve(net.add("Relu", x), 16, 1, bias=False)


def _grouped(net: NetworkSketch, x: str) -> str:
    group = 2 if net.channels % 2 == 0 else 1
    return net.convolve(x, 16 if group == 2 else net.channels, 3, group=group)


def _dilated(net: NetworkSketch, x: str) -> str:
    return net.convolve(x, 32, 3, bias=False, dilations=[2, 2])


def _strided(net: NetworkSketch, x: str) -> str:
    if min(net.height, net.width) < 4:
        return net.add("Relu", x)
    return net.convolve(x, 32, 3, strides=[2, 2])


def _same_padded(net: NetworkSketch, x: str) -> str:
    return net.convolve(x, 16, 3, auto_pad="SAME_UPPER")


def _shared_weights(net: NetworkSketch, x: str) -> str:
    first = net.convolve(x, net.channels)
    node = net.nodes[-1]
    second = net.add("Conv", net.add("Relu", first), *node.input[1:], pads=[1, 1, 1, 1])
    return net.add("Add", second, first)


def _computed_weights(net: NetworkSketch, x: str) -> str:
    """Scale the weights in the graph, as weight normalization does."""
    weight = net.constant(net.random.normal(0, 0.1, (net.channels, net.channels, 1, 1)))
    scaled = net.add("Mul", weight, net.constant(np.full((net.channels, 1, 1, 1), 2.0)))
    return net.add("Conv", x, scaled)


def _dynamic_weights(net: NetworkSketch, x: str) -> str:
    """Convolve with weights that depend on the frame."""
    weight = net.add("Reshape", net.add("GlobalAveragePool", x), net.whole(1, net.channels, 1, 1))
    gate = net.add("Conv", x, weight)
    return net.add("Mul", x, net.add("Sigmoid", gate))


def _transposed(net: NetworkSketch, x: str) -> str:
    weight = net.random.normal(0, 1.4 / np.sqrt(net.channels * 4), (net.channels, 16, 2, 2))
    x = net.add("ConvTranspose", x, net.constant(weight), net.constant(np.zeros(16)), strides=[2, 2])
    net.channels, net.height, net.width = 16, net.height * 2, net.width * 2
    return x


def _pool(operator: str, **attributes: Any) -> tuple[int, Block]:
    def block(net: NetworkSketch, x: str) -> str:
        if min(net.height, net.width) < 4:
            return net.add("Relu", x)
        net.height, net.width = net.height // 2, net.width // 2
        return net.add(operator, x, kernel_shape=[2, 2], strides=[2, 2], **attributes)

    return 7, block


def _padded_pool(net: NetworkSketch, x: str) -> str:
    pooled = [net.add("MaxPool", x, kernel_shape=[k, k], strides=[1, 1], pads=[k // 2] * 4) for k in (3, 5)]
    net.channels *= 3
    return net.convolve(net.add("Concat", x, *pooled, axis=1), 16, 1)


def _resize(mode: str, by: str) -> tuple[int, Block]:
    def block(net: NetworkSketch, x: str) -> str:
        before = net.shape
        net.height, net.width = net.height * 2, net.width * 2
        scales = net.constant([1, 1, 2, 2], is_weight=False)
        if net.opset < 11:
            operator = "Upsample" if net.opset < 10 else "Resize"
            mode_7 = "linear" if mode == "cubic" else mode
            if net.opset < 9:
                return net.add(operator, x, mode=mode_7, scales=[1.0, 1.0, 2.0, 2.0])
            return net.add(operator, x, scales, mode=mode_7)
        rest: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric"} if mode == "nearest" else {}
        if by == "computed sizes":
            shape = net.add("Shape", x)
            sides = net.add("Slice", shape, net.whole(2), net.whole(4))
            doubled = net.add("Mul", sides, net.whole(2, 2))
            sizes = net.add("Concat", net.whole(1, before[0]), doubled, axis=0)
        else:
            sizes = net.whole(1, before[0], net.height, net.width)
        none = "" if net.opset >= 13 else net.constant([], is_weight=False)
        if by == "scales":
            return net.add("Resize", x, none, scales, mode=mode, **rest)
        empty = "" if net.opset >= 13 else net.constant([], is_weight=False)
        return net.add("Resize", x, none, empty, sizes, mode=mode, **rest)

    return 7, block


def _pad_and_crop(net: NetworkSketch, x: str) -> str:
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    if net.opset < 11:
        padded = net.add("Pad", x, mode="reflect", pads=pads)
    else:
        padded = net.add("Pad", x, net.whole(*pads), mode="edge")
    if net.opset < 10:
        return net.add("Slice", padded, starts=[1, 1], ends=[-1, -1], axes=[2, 3])
    return net.add("Slice", padded, net.whole(1, 1), net.whole(-1, -1), net.whole(2, 3))


def _pad_value(net: NetworkSketch, x: str) -> str:
    if net.opset < 11:
        return net.add("Identity", x)
    padded = net.add("Pad", x, net.whole(0, 0, 1, 1, 0, 0, 1, 1), net.constant(0.5))
    net.height, net.width = net.height + 2, net.width + 2
    return padded


def _shuffle(net: NetworkSketch, x: str) -> str:
    c, h, w = net.shape
    if c % 2:
        return net.add("Relu", x)
    x = net.add("Reshape", x, net.whole(-1, 2, c // 2, h, w))
    return net.add("Reshape", net.add("Transpose", x, perm=[0, 2, 1, 3, 4]), net.whole(-1, c, h, w))


def _flatten_by_shape(net: NetworkSketch, x: str) -> str:
    """Reshape with a shape that the graph computes."""
    shape = net.add("Shape", x)
    batch = net.add("Gather", shape, net.constant(0, np.int64), axis=0)
    if net.opset < 13:
        batch = net.add("Unsqueeze", batch, axes=[0])
    else:
        batch = net.add("Unsqueeze", batch, net.whole(0))
    flat = net.add("Reshape", x, net.add("Concat", batch, net.whole(-1), axis=0))
    return net.add("Reshape", net.add("Tanh", flat), shape)


def _split(net: NetworkSketch, x: str) -> str:
    if net.channels % 2:
        return net.add("Relu", x)
    half = net.channels // 2
    if net.opset >= 13:
        first = net.add("Split", x, net.whole(half, half), axis=1, count=2)
    else:
        first = net.add("Split", x, axis=1, split=[half, half], count=2)
    second = net.nodes[-1].output[1]
    return net.add("Concat", net.add("Sigmoid", second), first, axis=1)


def _space_to_depth(net: NetworkSketch, x: str) -> str:
    x = net.add("SpaceToDepth", x, blocksize=2) if net.height % 2 == 0 == net.width % 2 else x
    if net.height % 2 or net.width % 2:
        return net.add("Relu", x)
    return net.add("DepthToSpace", net.add("Relu", x), blocksize=2)


def _attention(net: NetworkSketch, x: str) -> str:
    c, h, w = net.shape
    if h * w > 400:
        return net.add("Relu", x)
    flat = net.add("Reshape", x, net.whole(1, c, h * w))
    turned = net.add("Transpose", flat, perm=[0, 2, 1])
    weights = net.add("Div", net.add("MatMul", turned, flat), net.constant(float(np.sqrt(c))))
    attention = net.add("Softmax", weights, axis=2)
    return net.add("Reshape", net.add("MatMul", flat, attention), net.whole(1, c, h, w))


def _linear(net: NetworkSketch, x: str) -> str:
    c = net.channels
    x = net.add("Transpose", x, perm=[0, 2, 3, 1])
    x = net.add("MatMul", x, net.constant(net.random.normal(0, 1 / np.sqrt(c), (c, c))))
    x = net.add("Add", x, net.constant(net.random.normal(0, 0.1, c)))
    return net.add("Transpose", x, perm=[0, 3, 1, 2])


def _gemm(net: NetworkSketch, x: str) -> str:
    c = net.channels
    pooled = net.add("Flatten", net.add("GlobalMaxPool", x), axis=1)
    weight = net.constant(net.random.normal(0, 1 / np.sqrt(c), (c, c)))
    x2 = net.add("Gemm", pooled, weight, net.constant(np.zeros(c)), transB=1)
    gate = net.add("Reshape", x2, net.whole(1, c, 1, 1))
    return net.add("Mul", x, net.add("Sigmoid", gate))


def _gelu(net: NetworkSketch, x: str) -> str:
    erf = net.add("Erf", net.add("Div", x, net.constant(float(np.sqrt(2)))))
    half = net.add("Mul", net.add("Add", erf, net.constant(1.0)), net.constant(0.5))
    return net.add("Mul", x, half)


def _silu(net: NetworkSketch, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", x))


def _mish(net: NetworkSketch, x: str) -> str:
    return net.add("Mul", x, net.add("Tanh", net.add("Softplus", x)))


def _power(net: NetworkSketch, x: str) -> str:
    return net.add("Pow", net.add("Add", net.add("Abs", x), net.constant(0.1)), net.constant(0.5))


def _log(net: NetworkSketch, x: str) -> str:
    return net.add("Log", net.add("Add", net.add("Abs", x), net.constant(1.0)))


def _normalize(net: NetworkSketch, x: str) -> str:
    length = _reduce(net, "ReduceL2", x, [1])
    return net.add("Div", x, net.add("Max", length, net.constant(1e-3)))


def _where(net: NetworkSketch, x: str) -> str:
    negative = net.add("Less", x, net.constant(0.0))
    if net.opset < 9:
        return net.add("Relu", x)
    return net.add("Where", negative, net.constant(0.0), x)


def _top_channel(net: NetworkSketch, x: str) -> str:
    best = net.add("ArgMax", x, axis=1, keepdims=1)
    weight = net.add("Mul", net.add("Cast", best, to=net.float_type), net.constant(0.05))
    return net.add("Add", x, weight)


def _gather_channels(net: NetworkSketch, x: str) -> str:
    order = net.random.permutation(net.channels)
    return net.add("Gather", x, net.whole(*map(int, order)), axis=1)


def _double(net: NetworkSketch, x: str) -> str:
    """Compute in float64, as code with Python numbers does."""
    wide = net.add("Cast", x, to=TensorProto.DOUBLE)
    wide = net.add("Mul", wide, net.constant(0.7, np.float64))
    return net.add("Cast", wide, to=net.float_type)


def _integers(net: NetworkSketch, x: str) -> str:
    """Quantize by hand: through int32 and back."""
    whole = net.add("Cast", net.add("Floor", net.add("Mul", x, net.constant(16.0))), to=TensorProto.INT32)
    return net.add("Mul", net.add("Cast", whole, to=net.float_type), net.constant(1 / 16))


def _range_grid(net: NetworkSketch, x: str) -> str:
    """Add a coordinate channel that the graph computes."""
    if net.opset < 11:
        return net.add("Relu", x)
    scalars = [net.constant(v, is_weight=False) for v in (0.0, float(net.width), 1.0)]
    line = net.add("Range", *scalars)
    line = net.add("Cast", line, to=net.float_type)
    line = net.add("Reshape", line, net.whole(1, 1, 1, net.width))
    return net.add("Add", x, net.add("Mul", line, net.constant(1 / net.width)))


def _filled(net: NetworkSketch, x: str) -> str:
    if net.opset < 9:
        return net.add("Relu", x)
    value = numpy_helper.from_array(np.array([0.25], np.float16 if net.float_type == 10 else np.float32))
    return net.add("Add", x, net.add("ConstantOfShape", net.add("Shape", x), value=value))


def _expand(net: NetworkSketch, x: str) -> str:
    if net.opset < 8:
        return net.add("Relu", x)
    wide = net.add("Expand", net.constant([[[[0.1]]]]), net.whole(1, *net.shape))
    return net.add("Sub", x, wide)


def _tile(net: NetworkSketch, x: str) -> str:
    net.channels *= 2
    return net.convolve(net.add("Tile", x, net.whole(1, 2, 1, 1)), 16, 1)


def _sample_grid(net: NetworkSketch, x: str) -> str:
    """Warp by a constant grid."""
    if net.opset < 16:
        return net.add("Relu", x)
    ys, xs = np.meshgrid(np.linspace(-1, 1, net.height), np.linspace(-1, 1, net.width), indexing="ij")
    grid = net.constant(np.stack([xs, ys], -1)[None] * 0.9)
    return net.add("GridSample", x, grid, mode="linear" if net.opset >= 20 else "bilinear")


def _dropout(net: NetworkSketch, x: str) -> str:
    return net.add("Dropout", x)


def _einsum(net: NetworkSketch, x: str) -> str:
    if net.opset < 12:
        return net.add("Relu", x)
    weight = net.constant(net.random.normal(0, 1 / np.sqrt(net.channels), (net.channels, net.channels)))
    return net.add("Einsum", x, weight, equation="bchw,cd->bdhw")


def _lrn(net: NetworkSketch, x: str) -> str:
    return net.add("LRN", x, size=3)


def _unread_output(net: NetworkSketch, x: str) -> str:
    net.add("Sigmoid", x)
    return net.add("Relu", x)


def _nonzero_output(net: NetworkSketch, x: str) -> str:
    """Add an output whose length depends on the data."""
    if net.opset < 9 or net.outputs:
        return net.add("Relu", x)
    found = net.add("NonZero", net.add("Greater", x, net.constant(0.5)))
    net.outputs.append(helper.make_tensor_value_info(found, TensorProto.INT64, [4, "found"]))
    return net.add("Relu", x)


def _selected_output(net: NetworkSketch, x: str) -> str:
    """Add boxes from NonMaxSuppression as an output."""
    if net.opset < 11 or net.outputs or net.style.half != "none":
        return net.add("Relu", x)
    count = net.height * net.width
    scores = net.add("Reshape", _reduce(net, "ReduceMean", x, [1]), net.whole(1, 1, count))
    corner = net.add("Transpose", net.add("Reshape", scores, net.whole(1, 1, count)), perm=[0, 2, 1])
    boxes = net.add("Concat", corner, corner, corner, corner, axis=2)
    boxes = net.add("Add", boxes, net.constant([[[0.0, 0.0, 1.0, 1.0]]]))
    limits = (net.whole(5), net.constant([0.5]), net.constant([0.0]))
    chosen = net.add("NonMaxSuppression", boxes, scores, *limits)
    index = net.add("Gather", chosen, net.constant([2], np.int64), axis=1)
    flat = net.add("Reshape", boxes, net.whole(count, 4))
    if net.opset < 12:
        return net.add("Relu", x)
    found = net.add("GatherND", flat, index)
    net.outputs.append(helper.make_tensor_value_info(found, TensorProto.FLOAT, ["found", 4]))
    return net.add("Relu", x)


def _clip_above(net: NetworkSketch, x: str) -> str:
    """Limit by a maximum alone: the minimum is an empty name."""
    if net.opset < 11:
        return net.add("Clip", x, max=1.0)
    return net.add("Clip", x, "", net.constant(1.0))


def _masked_attention(net: NetworkSketch, x: str) -> str:
    """Let each channel read itself and those before it, by a mask of -inf."""
    flat = net.add("Reshape", x, net.whole(1, net.channels, net.height * net.width))
    small = net.add("Mul", flat, net.constant(1 / np.sqrt(net.height * net.width)))
    scores = net.add("MatMul", small, net.add("Transpose", small, perm=[0, 2, 1]))
    mask = net.constant(np.triu(np.full((net.channels, net.channels), -np.inf), 1))
    weights = net.add("Softmax", net.add("Add", scores, mask), axis=2)
    return net.add("Reshape", net.add("MatMul", weights, flat), net.whole(1, *net.shape))


def _softmax_of_the_rest(net: NetworkSketch, x: str) -> str:
    """Before opset 13, a Softmax is over all axes from its axis on."""
    return net.add("Softmax", x, axis=2 if net.opset >= 13 else 1)


def _unpool(net: NetworkSketch, x: str) -> str:
    """Pool with indices, and put the values back to their places, as SegNet does."""
    if net.opset < 11 or net.style.half != "none" or net.height % 2 or net.width % 2:
        return net.add("Relu", x)
    pooled = net.add("MaxPool", x, count=2, kernel_shape=[2, 2], strides=[2, 2])
    return net.add("MaxUnpool", pooled, net.nodes[-1].output[1], kernel_shape=[2, 2], strides=[2, 2])


def _cast_to_itself(net: NetworkSketch, x: str) -> str:
    return net.add("Relu", net.add("Cast", x, to=net.float_type))


def _constant_of_floats(net: NetworkSketch, x: str) -> str:
    if net.opset < 12 or net.style.half != "none":
        return net.add("Relu", x)
    net.nodes.append(helper.make_node("Constant", [], [c := net.name("c")], value_float=0.3))
    net.nodes.append(helper.make_node("Constant", [], [d := net.name("c")], value_floats=[0.1]))
    return net.add("Add", net.add("Mul", x, c), d)


def _masked_dropout(net: NetworkSketch, x: str) -> str:
    return net.add("Relu", net.add("Dropout", x, count=2))


def _sequence(net: NetworkSketch, x: str) -> str:
    if net.opset < 11 or net.channels % 2:
        return net.add("Relu", x)
    parts = net.add("SplitToSequence", x, net.constant(net.channels // 2, np.int64), axis=1)
    first = net.add("SequenceAt", parts, net.constant(0, np.int64))
    return net.add("Concat", net.add("Tanh", first), net.add("Sigmoid", first), axis=1)


def _lstm(net: NetworkSketch, x: str) -> str:
    """Run an LSTM along the pooled channels, and scale them by its last state."""
    c = net.channels
    pooled = net.add("Reshape", net.add("GlobalAveragePool", x), net.whole(1, 1, c))
    w, r = (net.constant(net.random.normal(0, 1 / np.sqrt(c), (1, 4 * c, c))) for _ in range(2))
    y = net.add("LSTM", pooled, w, r, hidden_size=c)
    return net.add("Mul", x, net.add("Reshape", y, net.whole(1, c, 1, 1)))


def _convolve_in_time(net: NetworkSketch, x: str) -> str:
    c, h, w = net.shape
    weight = net.constant(net.random.normal(0, 1 / np.sqrt(c * 9), (c, c, 1, 3, 3)))
    volume = net.add("Reshape", x, net.whole(1, c, 1, h, w))
    y = net.add("Conv", volume, weight, pads=[0, 1, 1, 0, 1, 1])
    return net.add("Reshape", y, net.whole(1, c, h, w))


def _mean_of_all(net: NetworkSketch, x: str) -> str:
    return net.add("Sub", x, net.add("ReduceMean", x, keepdims=0))


def _pool_upwards(net: NetworkSketch, x: str) -> str:
    if net.opset < 10 or min(net.height, net.width) < 4:
        return net.add("Relu", x)
    net.height, net.width = -(-net.height // 2), -(-net.width // 2)
    return net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


def _zero_weights(net: NetworkSketch, x: str) -> str:
    weight = net.constant(np.zeros((net.channels, net.channels, 3, 3)))
    return net.add("Add", x, net.add("Conv", x, weight, pads=[1, 1, 1, 1]))


def _shared_bias(net: NetworkSketch, x: str) -> str:
    c, bias = net.channels, net.constant(net.random.normal(0, 0.2, net.channels))
    for scale in (0.1, 1.0):
        weight = net.constant(net.random.normal(0, scale / np.sqrt(c), (c, c, 1, 1)))
        x = net.add("Relu", net.add("Conv", x, weight, bias))
    return x


def _overlapping_transposed(net: NetworkSketch, x: str) -> str:
    weight = net.constant(net.random.normal(0, 0.4 / np.sqrt(net.channels), (net.channels, 16, 3, 3)))
    x = net.add("ConvTranspose", x, weight, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    net.channels, net.height, net.width = 16, net.height * 2, net.width * 2
    return x


def _read_output(net: NetworkSketch, x: str) -> str:
    """Add a value that is read further on as an output."""
    if net.outputs:
        return net.add("Relu", x)
    y = net.add("Relu", net.convolve(x, 16))
    net.outputs.append(helper.make_tensor_value_info(y, net.float_type, ["b", 16, "fh", "fw"]))
    return y


def _top_values(net: NetworkSketch, x: str) -> str:
    """Keep the strongest channels, and scatter them."""
    if net.opset < 11:
        return net.add("Relu", x)
    best = net.add("TopK", x, net.whole(2), axis=1, count=2)
    places = net.nodes[-1].output[1]
    zeros = net.add("Mul", x, net.constant(0.0))
    return net.add("ScatterElements", zeros, places, best, axis=1)


def _running_sum(net: NetworkSketch, x: str) -> str:
    if net.opset < 11 or net.style.half != "none":
        return net.add("Relu", x)
    total = net.add("CumSum", x, net.constant(3, np.int64))
    return net.add("Mul", total, net.constant(1 / net.width))


def _several(net: NetworkSketch, x: str) -> str:
    y = net.add("Mean", x, net.add("Tanh", x), net.add("Sigmoid", x))
    return net.add("Max", net.add("Sum", y, x), net.add("Neg", x))


BLOCKS: dict[str, tuple[int, Block]] = {
    "Relu": _activation("Relu"),
    "LeakyRelu": _activation("LeakyRelu", alpha=0.1),
    "Elu": _activation("Elu"),
    "Selu": _activation("Selu"),
    "Celu": _activation("Celu", 12),
    "ThresholdedRelu": _activation("ThresholdedRelu", 10, alpha=0.1),
    "HardSigmoid": _activation("HardSigmoid"),
    "HardSwish": _activation("HardSwish", 14),
    "Sigmoid": _activation("Sigmoid"),
    "Tanh": _activation("Tanh"),
    "Softplus": _activation("Softplus"),
    "Softsign": _activation("Softsign"),
    "Gelu": _activation("Gelu", 20),
    "Mish": _activation("Mish", 18),
    "Sin": _activation("Sin"),
    "Round": _activation("Round", 11),
    "Exp of Sigmoid": (7, lambda net, x: net.add("Exp", net.add("Sigmoid", x))),
    "Softmax over channels": _activation("Softmax", 13, axis=1),
    "LpNormalization": _activation("LpNormalization", axis=1),
    "Clip": (7, _clip),
    "PRelu": (7, _prelu),
    "BatchNormalization": (7, _batch_norm),
    "InstanceNormalization": (7, _instance_norm),
    "LayerNormalization": (17, _layer_norm),
    "GroupNormalization": (21, _group_norm),
    "squeeze and excite": (7, _squeeze_excite),
    "mean norm": (7, _mean_norm),
    "peak norm": (7, _peak_norm),
    "residual": (7, _residual),
    "add constant": (7, _add_constant),
    "Concat with a constant": (7, _concat_constant),
    "Concat with an earlier value": (7, _concat_earlier),
    "depthwise": (7, _depthwise),
    "grouped": (7, _grouped),
    "dilated": (7, _dilated),
    "strided": (7, _strided),
    "SAME_UPPER": (7, _same_padded),
    "shared weights": (7, _shared_weights),
    "computed weights": (7, _computed_weights),
    "dynamic weights": (7, _dynamic_weights),
    "ConvTranspose": (7, _transposed),
    "MaxPool": _pool("MaxPool"),
    "AveragePool": _pool("AveragePool"),
    "AveragePool that counts padding": _pool("AveragePool", count_include_pad=1),
    "LpPool": _pool("LpPool"),
    "pyramid of MaxPools": (7, _padded_pool),
    "Resize nearest by scales": _resize("nearest", "scales"),
    "Resize linear by scales": _resize("linear", "scales"),
    "Resize cubic by scales": _resize("cubic", "scales"),
    "Resize linear by sizes": _resize("linear", "sizes"),
    "Resize nearest by computed sizes": _resize("nearest", "computed sizes"),
    "pad and crop": (7, _pad_and_crop),
    "pad with a value": (7, _pad_value),
    "shuffle": (7, _shuffle),
    "reshape by Shape": (7, _flatten_by_shape),
    "Split": (7, _split),
    "SpaceToDepth": (11, _space_to_depth),
    "attention": (13, _attention),
    "linear": (7, _linear),
    "Gemm": (7, _gemm),
    "gelu by Erf": (9, _gelu),
    "silu": (7, _silu),
    "mish by Softplus": (7, _mish),
    "Pow": (7, _power),
    "Log": (7, _log),
    "ReduceL2": (8, _normalize),
    "Where": (9, _where),
    "ArgMax": (7, _top_channel),
    "Gather": (7, _gather_channels),
    "float64": (7, _double),
    "through int32": (7, _integers),
    "Range": (11, _range_grid),
    "ConstantOfShape": (9, _filled),
    "Expand": (8, _expand),
    "Tile": (7, _tile),
    "GridSample": (16, _sample_grid),
    "Dropout": (7, _dropout),
    "Einsum": (12, _einsum),
    "LRN": (7, _lrn),
    "unread value": (7, _unread_output),
    "Clip with a maximum": (7, _clip_above),
    "Concat of one value": (7, lambda net, x: net.convolve(net.add("Concat", x, axis=1), net.channels)),
    "Softmax over the rest": (7, _softmax_of_the_rest),
    "masked attention": (7, _masked_attention),
    "MaxUnpool": (11, _unpool),
    "Cast to its own type": (9, _cast_to_itself),
    "Constant of floats": (12, _constant_of_floats),
    "Dropout with a mask": (7, _masked_dropout),
    "sequence": (11, _sequence),
    "LSTM": (7, _lstm),
    "3-D convolution": (7, _convolve_in_time),
    "mean of all": (7, _mean_of_all),
    "AveragePool of odd sides": (10, _pool_upwards),
    "zero weights": (7, _zero_weights),
    "shared bias": (7, _shared_bias),
    "overlapping ConvTranspose": (7, _overlapping_transposed),
    "output that is read": (7, _read_output),
    "TopK": (11, _top_values),
    "CumSum": (11, _running_sum),
    "Mean, Sum and Max": (8, _several),
    "NonZero as an output": (9, _nonzero_output),
    "NonMaxSuppression as an output": (12, _selected_output),
}
"""Blocks by name, each with the first opset that has its operators."""


def make_network(style: Style, blocks: Sequence[str], seed: int = 0) -> onnx.ModelProto:
    """Return a network with these blocks; those that the style's opset does not have are left out."""
    net, x = NetworkSketch(style, seed), "x"
    if style.layout == "nhwc":
        x = net.add("Transpose", x, perm=[0, 3, 1, 2])
    if style.half == "inside":
        x = net.add("Cast", x, to=TensorProto.FLOAT16)
    x = net.add("Relu", net.convolve(x, 16))
    for name in blocks:
        since, block = BLOCKS[name]
        if style.opset >= since and net.height * net.width <= 4 * HEIGHT * WIDTH:
            net.earlier.append((x, net.shape))
            x = block(net, x)
    x = net.add("Relu", net.convolve(x, 16, 1))
    y = net.convolve(x, 1, 3)
    if style.half == "inside":
        y = net.add("Cast", y, to=TensorProto.FLOAT)
    return net.build(y)


NETWORKS = st.builds(
    make_network,
    STYLES,
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4),
    st.integers(0, 9),
)


def random_frames(count: int) -> NDArray[np.uint8]:
    """Return windows of one frame each (count, 1, HEIGHT, WIDTH, 3) with blobs at different places."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for index in range(count):
        y, x = (5 + 7 * index) % HEIGHT, (3 + 5 * index) % WIDTH
        blob = np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / 12)
        noise = np.random.default_rng(index).uniform(0, 60, (HEIGHT, WIDTH, 3))
        frames.append(np.clip(blob[..., None] * [180, 90, 40] + noise, 0, 255))
    return np.asarray(frames, np.uint8)[:, None]
