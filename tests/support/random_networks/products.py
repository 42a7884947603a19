"""Blocks of matrix products: linear layers, attention and a recurrent layer."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.support.random_networks.sketch import Blocks, NetworkSketch


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


def _einsum(net: NetworkSketch, x: str) -> str:
    weight = net.constant(net.random.normal(0, 1 / np.sqrt(net.channels), (net.channels, net.channels)))
    return net.add("Einsum", x, weight, equation="bchw,cd->bdhw")


def _attention(net: NetworkSketch, x: str) -> str:
    c, h, w = net.shape
    if h * w > 400:
        return net.add("Relu", x)
    flat = net.add("Reshape", x, net.whole(1, c, h * w))
    turned = net.add("Transpose", flat, perm=[0, 2, 1])
    weights = net.add("Div", net.add("MatMul", turned, flat), net.constant(float(np.sqrt(c))))
    attention = net.add("Softmax", weights, axis=2)
    return net.add("Reshape", net.add("MatMul", flat, attention), net.whole(1, c, h, w))


def _masked_attention(net: NetworkSketch, x: str) -> str:
    """Let each channel read itself and those before it, by a mask of -inf."""
    flat = net.add("Reshape", x, net.whole(1, net.channels, net.height * net.width))
    small = net.add("Mul", flat, net.constant(1 / np.sqrt(net.height * net.width)))
    scores = net.add("MatMul", small, net.add("Transpose", small, perm=[0, 2, 1]))
    mask = net.constant(np.triu(np.full((net.channels, net.channels), -np.inf), 1))
    weights = net.add("Softmax", net.add("Add", scores, mask), axis=2)
    return net.add("Reshape", net.add("MatMul", weights, flat), net.whole(1, *net.shape))


def _lstm(net: NetworkSketch, x: str) -> str:
    """Run an LSTM along the pooled channels, and scale them by its output."""
    inputs = _lstm_inputs(net, x)
    y = net.add("LSTM", *inputs, hidden_size=net.channels)
    return net.add("Mul", x, net.add("Reshape", y, net.whole(1, net.channels, 1, 1)))


def _lstm_state(net: NetworkSketch, x: str) -> str:
    """Run an LSTM for its last state alone: the name of its first output is empty."""
    inputs = _lstm_inputs(net, x)
    state = net.name("t")
    net.nodes.append(helper.make_node("LSTM", inputs, ["", state], hidden_size=net.channels))
    return net.add("Mul", x, net.add("Reshape", state, net.whole(1, net.channels, 1, 1)))


def _lstm_inputs(net: NetworkSketch, x: str) -> list[str]:
    c = net.channels
    pooled = net.add("Reshape", net.add("GlobalAveragePool", x), net.whole(1, 1, c))
    weights = (net.constant(net.random.normal(0, 1 / np.sqrt(c), (1, 4 * c, c))) for _ in range(2))
    return [pooled, *weights]


PRODUCTS: Blocks = {
    "attention": (13, _attention),
    "linear": (7, _linear),
    "Gemm": (7, _gemm),
    "Einsum": (12, _einsum),
    "masked attention": (7, _masked_attention),
    "LSTM": (7, _lstm),
    "LSTM of the last state": (7, _lstm_state),
}
