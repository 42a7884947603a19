"""Small ONNX graphs, and random inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
"""Height and width of the graphs' input x (1, 3, SIDE, SIDE)."""
Steps = tuple[tuple[str, float | None], ...]
OVERFLOWING: Steps = (("Abs", None), ("Mul", 2000.0), ("Mul", 2000.0), ("Sqrt", None))
CANCELLING: Steps = (("Add", 30000.0), ("Add", -30000.0), ("Sigmoid", None))
HARMLESS: Steps = (("Mul", 0.3), ("Add", 0.1), ("Sigmoid", None))
"""Chains of operators, each with a constant or none, for `operator_chain`."""


def random_feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    """Return random inputs x between -1 and 1."""
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)} for _ in range(count)]


def batch_graph() -> onnx.ModelProto:
    """Return a graph of a convolution, from x (batch, 3, SIDE, SIDE) to y (batch, 1, SIDE, SIDE)."""
    value = helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(0, 0.3, (1, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "batch",
        [value("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [value("y", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class _GraphBuilder:
    """Collects nodes and weights of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def add_weight(self, name: str, scale: float, *shape: int) -> None:
        values = self._random.normal(0, scale, shape).astype(np.float32)
        self._weights.append(numpy_helper.from_array(values, name))

    def add_integers(self, name: str, values: Sequence[int]) -> str:
        self._weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def build(self, name: str, outputs: dict[str, list[int]]) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            name,
            [value("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [value(output, TensorProto.FLOAT, shape) for output, shape in outputs.items()],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def softmax_network(
    operator: str | None = None, constants: Sequence[Sequence[int]] = (), **attributes: Any
) -> onnx.ModelProto:
    """Return a network with a softmax over channels between two convolutions; 3-16-16-16-1 channels.

    Args:
        operator: An operator between the softmax and the convolution that keeps the shape, or None.
        constants: Integer inputs of the operator after the first.
        **attributes: Attributes of the operator.
    """
    builder = _GraphBuilder()
    for name, source, inputs, outputs in (
        ("stem", "x", 3, 16),
        ("logits", "stem", 16, 16),
        ("mix", "shares" if operator is None else "after", 16, 16),
        ("y", "mix", 16, 1),
    ):
        builder.add_weight(f"{name}.w", 1.0, outputs, inputs, 3, 3)
        builder.nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [name], name, pads=[1, 1, 1, 1]))
        if name == "logits":
            builder.nodes.append(helper.make_node("Softmax", ["logits"], ["shares"], "shares", axis=1))
        if name == "logits" and operator is not None:
            names = [builder.add_integers(f"c{index}", values) for index, values in enumerate(constants)]
            builder.nodes.append(
                helper.make_node(operator, ["shares", *names], ["after"], "after", **attributes)
            )
    return builder.build("softmax", {"y": [1, 1, SIDE, SIDE]})


def residual_network() -> onnx.ModelProto:
    """Return a network with two residual blocks.

    Stem 3-16; block a, b and x + b; block c, d with a projected shortcut; depthwise convolution; head 32-16.
    """
    builder = _GraphBuilder()

    def convolve(x: str, y: str, inputs: int, outputs: int, side: int = 3, group: int = 1) -> None:
        scale = 1 / np.sqrt(inputs // group * side * side)
        builder.add_weight(f"{y}.w", scale, outputs, inputs // group, side, side)
        builder.add_weight(f"{y}.b", 0.1, outputs)
        pads = [side // 2] * 4
        builder.nodes.append(
            helper.make_node("Conv", [x, f"{y}.w", f"{y}.b"], [y], y, pads=pads, group=group)
        )

    def add_node(operator: str, inputs: list[str], output: str) -> None:
        builder.nodes.append(helper.make_node(operator, inputs, [output], output))

    convolve("x", "stem", 3, 16)
    add_node("Relu", ["stem"], "x1")
    convolve("x1", "a", 16, 16)
    add_node("Relu", ["a"], "a1")
    convolve("a1", "b", 16, 16)
    add_node("Add", ["x1", "b"], "sum1")
    add_node("Relu", ["sum1"], "x2")
    convolve("x2", "shortcut", 16, 32, side=1)
    convolve("x2", "c", 16, 32)
    add_node("Relu", ["c"], "c1")
    convolve("c1", "d", 32, 32)
    add_node("Add", ["d", "shortcut"], "sum2")
    add_node("Relu", ["sum2"], "x3")
    convolve("x3", "depthwise", 32, 32, group=32)
    add_node("Relu", ["depthwise"], "x4")
    convolve("x4", "y", 32, 16)
    return builder.build("residual", {"y": [1, 16, SIDE, SIDE]})


def encoder_decoder_network() -> onnx.ModelProto:
    """Return a network with pooling, Concat and transposed convolutions.

    Conv 3-16, conv 16-32, pool, two convs concatenated, conv 32-16, deconv 16-16, deconv 16-1.
    """
    builder = _GraphBuilder()

    def convolve(x: str, y: str, inputs: int, outputs: int, transposed: bool = False) -> None:
        shape = (inputs, outputs, 4, 4) if transposed else (outputs, inputs, 3, 3)
        builder.add_weight(f"{y}.w", 1 / np.sqrt(inputs * 9), *shape)
        builder.add_weight(f"{y}.b", 0.1, outputs)
        operator, stride = ("ConvTranspose", [2, 2]) if transposed else ("Conv", [1, 1])
        output = y if transposed else f"{y}.raw"
        inputs_ = [x, f"{y}.w", f"{y}.b"]
        builder.nodes.append(
            helper.make_node(operator, inputs_, [output], name=y, strides=stride, pads=[1, 1, 1, 1])
        )
        if not transposed:
            builder.nodes.append(helper.make_node("Relu", [output], [y], name=f"{y}.relu"))

    convolve("x", "first", 3, 16)
    convolve("first", "second", 16, 32)
    builder.nodes.append(
        helper.make_node("MaxPool", ["second"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    )
    convolve("pooled", "left", 32, 16)
    convolve("pooled", "right", 32, 16)
    builder.nodes.append(helper.make_node("Concat", ["left", "right"], ["joined"], "join", axis=1))
    convolve("joined", "third", 32, 16)
    convolve("third", "up", 16, 16, transposed=True)
    convolve("up", "y", 16, 1, transposed=True)
    return builder.build("small", {"y": [1, 1, 2 * SIDE, 2 * SIDE], "pooled": [1, 32, 8, 8]})


def operator_chain(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    """Return a graph from x to y (1, 3, 16, 16): a chain of operators, each with a constant or none."""
    nodes, weights, last = [], [], "x"
    for index, (operator, constant) in enumerate(steps):
        output = "y" if index == len(steps) - 1 else f"t{index}"
        inputs = [last] if constant is None else [last, f"c{index}"]
        if constant is not None:
            weights.append(numpy_helper.from_array(np.array([constant], np.float32), f"c{index}"))
        nodes.append(helper.make_node(operator, inputs, [output], f"{operator}_{index}"))
        last = output
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
