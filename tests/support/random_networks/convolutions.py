"""Blocks of convolutions: their kinds, and the ways in which weights and biases are given."""

from __future__ import annotations

import numpy as np

from tests.support.random_networks.sketch import Blocks, NetworkSketch


def _residual(net: NetworkSketch, x: str) -> str:
    inner = net.add("Relu", net.convolve(x, net.channels))
    return net.add("Add", net.convolve(inner, net.channels), x)


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


def _transposed(net: NetworkSketch, x: str) -> str:
    weight = net.random.normal(0, 1.4 / np.sqrt(net.channels * 4), (net.channels, 16, 2, 2))
    x = net.add("ConvTranspose", x, net.constant(weight), net.constant(np.zeros(16)), strides=[2, 2])
    net.channels, net.height, net.width = 16, net.height * 2, net.width * 2
    return x


def _overlapping_transposed(net: NetworkSketch, x: str) -> str:
    weight = net.constant(net.random.normal(0, 0.4 / np.sqrt(net.channels), (net.channels, 16, 3, 3)))
    x = net.add("ConvTranspose", x, weight, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    net.channels, net.height, net.width = 16, net.height * 2, net.width * 2
    return x


def _convolve_in_time(net: NetworkSketch, x: str) -> str:
    c, h, w = net.shape
    weight = net.constant(net.random.normal(0, 1 / np.sqrt(c * 9), (c, c, 1, 3, 3)))
    volume = net.add("Reshape", x, net.whole(1, c, 1, h, w))
    y = net.add("Conv", volume, weight, pads=[0, 1, 1, 0, 1, 1])
    return net.add("Reshape", y, net.whole(1, c, h, w))


def _squeeze_excite(net: NetworkSketch, x: str) -> str:
    pooled = net.add("GlobalAveragePool", x)
    shape = net.shape
    net.height = net.width = 1
    gate = net.add("Sigmoid", net.convolve(pooled, net.channels, 1))
    net.channels, net.height, net.width = shape
    return net.add("Mul", x, gate)


def _shared_weights(net: NetworkSketch, x: str) -> str:
    first = net.convolve(x, net.channels)
    node = net.nodes[-1]
    second = net.add("Conv", net.add("Relu", first), *node.input[1:], pads=[1, 1, 1, 1])
    return net.add("Add", second, first)


def _shared_bias(net: NetworkSketch, x: str) -> str:
    c, bias = net.channels, net.constant(net.random.normal(0, 0.2, net.channels))
    for scale in (0.1, 1.0):
        weight = net.constant(net.random.normal(0, scale / np.sqrt(c), (c, c, 1, 1)))
        x = net.add("Relu", net.add("Conv", x, weight, bias))
    return x


def _zero_weights(net: NetworkSketch, x: str) -> str:
    weight = net.constant(np.zeros((net.channels, net.channels, 3, 3)))
    return net.add("Add", x, net.add("Conv", x, weight, pads=[1, 1, 1, 1]))


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


CONVOLUTIONS: Blocks = {
    "squeeze and excite": (7, _squeeze_excite),
    "residual": (7, _residual),
    "depthwise": (7, _depthwise),
    "grouped": (7, _grouped),
    "dilated": (7, _dilated),
    "strided": (7, _strided),
    "SAME_UPPER": (7, _same_padded),
    "shared weights": (7, _shared_weights),
    "computed weights": (7, _computed_weights),
    "dynamic weights": (7, _dynamic_weights),
    "ConvTranspose": (7, _transposed),
    "3-D convolution": (7, _convolve_in_time),
    "zero weights": (7, _zero_weights),
    "shared bias": (7, _shared_bias),
    "overlapping ConvTranspose": (7, _overlapping_transposed),
}
