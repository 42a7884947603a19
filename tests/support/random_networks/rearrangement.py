"""Blocks that rearrange values, choose some of them, or give them as further outputs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.support.random_networks.sketch import Blocks, NetworkSketch


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
    if net.height % 2 or net.width % 2:
        return net.add("Relu", x)
    x = net.add("SpaceToDepth", x, blocksize=2)
    return net.add("DepthToSpace", net.add("Relu", x), blocksize=2)


def _sequence(net: NetworkSketch, x: str) -> str:
    if net.channels % 2:
        return net.add("Relu", x)
    parts = net.add("SplitToSequence", x, net.constant(net.channels // 2, np.int64), axis=1)
    first = net.add("SequenceAt", parts, net.constant(0, np.int64))
    return net.add("Concat", net.add("Tanh", first), net.add("Sigmoid", first), axis=1)


def _tile(net: NetworkSketch, x: str) -> str:
    net.channels *= 2
    return net.convolve(net.add("Tile", x, net.whole(1, 2, 1, 1)), 16, 1)


def _gather_channels(net: NetworkSketch, x: str) -> str:
    order = net.random.permutation(net.channels)
    return net.add("Gather", x, net.whole(*map(int, order)), axis=1)


def _top_channel(net: NetworkSketch, x: str) -> str:
    best = net.add("ArgMax", x, axis=1, keepdims=1)
    weight = net.add("Mul", net.add("Cast", best, to=net.float_type), net.constant(0.05))
    return net.add("Add", x, weight)


def _top_values(net: NetworkSketch, x: str) -> str:
    """Keep the strongest channels, and scatter them."""
    best = net.add("TopK", x, net.whole(2), axis=1, count=2)
    places = net.nodes[-1].output[1]
    zeros = net.add("Mul", x, net.constant(0.0))
    return net.add("ScatterElements", zeros, places, best, axis=1)


def _unread_output(net: NetworkSketch, x: str) -> str:
    net.add("Sigmoid", x)
    return net.add("Relu", x)


def _read_output(net: NetworkSketch, x: str) -> str:
    """Add a value that is read further on as an output."""
    if net.outputs:
        return net.add("Relu", x)
    y = net.add("Relu", net.convolve(x, 16))
    net.outputs.append(helper.make_tensor_value_info(y, net.float_type, ["b", 16, "fh", "fw"]))
    return y


def _nonzero_output(net: NetworkSketch, x: str) -> str:
    """Add an output whose length depends on the data."""
    if net.outputs:
        return net.add("Relu", x)
    found = net.add("NonZero", net.add("Greater", x, net.constant(0.5)))
    net.outputs.append(helper.make_tensor_value_info(found, TensorProto.INT64, [4, "found"]))
    return net.add("Relu", x)


def _selected_output(net: NetworkSketch, x: str) -> str:
    """Add boxes from NonMaxSuppression as an output."""
    if net.outputs or net.style.half != "none":
        return net.add("Relu", x)
    count = net.height * net.width
    scores = net.add("Reshape", net.reduce("ReduceMean", x, [1]), net.whole(1, 1, count))
    corner = net.add("Transpose", net.add("Reshape", scores, net.whole(1, 1, count)), perm=[0, 2, 1])
    boxes = net.add("Concat", corner, corner, corner, corner, axis=2)
    boxes = net.add("Add", boxes, net.constant([[[0.0, 0.0, 1.0, 1.0]]]))
    limits = (net.whole(5), net.constant([0.5]), net.constant([0.0]))
    chosen = net.add("NonMaxSuppression", boxes, scores, *limits)
    index = net.add("Gather", chosen, net.constant([2], np.int64), axis=1)
    flat = net.add("Reshape", boxes, net.whole(count, 4))
    found = net.add("GatherND", flat, index)
    net.outputs.append(helper.make_tensor_value_info(found, TensorProto.FLOAT, ["found", 4]))
    return net.add("Relu", x)


REARRANGEMENT: Blocks = {
    "Concat with a constant": (7, _concat_constant),
    "Concat with an earlier value": (7, _concat_earlier),
    "shuffle": (7, _shuffle),
    "reshape by Shape": (7, _flatten_by_shape),
    "Split": (7, _split),
    "SpaceToDepth": (11, _space_to_depth),
    "ArgMax": (7, _top_channel),
    "Gather": (7, _gather_channels),
    "Tile": (7, _tile),
    "unread value": (7, _unread_output),
    "Concat of one value": (7, lambda net, x: net.convolve(net.add("Concat", x, axis=1), net.channels)),
    "sequence": (11, _sequence),
    "output that is read": (7, _read_output),
    "TopK": (11, _top_values),
    "NonZero as an output": (9, _nonzero_output),
    "NonMaxSuppression as an output": (12, _selected_output),
}
