"""Small saliency networks as others make them: operators, opsets, layouts and types differ.

Every network takes frames of WIDTH x HEIGHT. Weights are random, and scaled so that maps vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

WIDTH, HEIGHT = 64, 48
WINDOW = 4
FLOAT, FLOAT16, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
Value = tuple[str, int, Sequence[int | str]]


class _Graph:
    """Collects nodes and weights."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(3)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def convolve(self, x: str, output: str, channels: tuple[int, int], gain: float = 1.5, **more: Any) -> str:
        """Add a 3 x 3 convolution, or one of `kernel`, with a bias."""
        kernel = more.pop("kernel", (3, 3))
        scale = gain / np.sqrt(channels[0] * np.prod(kernel))
        weight = self._random.normal(0, scale, (channels[1], channels[0], *kernel))
        bias = self._random.normal(0, 0.1, channels[1])
        names = [self.constant(f"{output}_w", weight), self.constant(f"{output}_b", bias)]
        pads = [side // 2 for side in kernel] * 2
        return self.add("Conv", [x, *names], output, pads=more.pop("pads", pads), **more)

    def build(
        self, inputs: Sequence[Value], outputs: Sequence[Value], opset: int, ir: int = 8
    ) -> onnx.ModelProto:
        tensors = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "network",
            [tensors(*value) for value in inputs],
            [tensors(*value) for value in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
        onnx.checker.check_model(model)
        return model


def upsampling_network() -> onnx.ModelProto:
    """Return a network of opset 11: RGB in a dynamic batch, two Resizes with the same scales, Sigmoid."""
    graph = _Graph()
    graph.constant("scales", [1, 1, 2, 2])
    graph.constant("roi", [])  # opset 11 demands it
    x = graph.convolve("image", "c1", (3, 16), strides=[2, 2])
    x = graph.convolve(graph.add("Relu", [x], "r1"), "c2", (16, 32), strides=[2, 2])
    x = graph.add("Resize", [graph.add("Relu", [x], "r2"), "roi", "scales"], "u1", mode="nearest")
    x = graph.convolve(x, "c3", (32, 16))
    x = graph.add("Resize", [graph.add("Relu", [x], "r3"), "roi", "scales"], "u2", mode="linear")
    graph.add("Sigmoid", [graph.convolve(x, "c4", (16, 1), 3.0)], "saliency")
    return graph.build(
        [("image", FLOAT, ["N", 3, HEIGHT, WIDTH])], [("saliency", FLOAT, ["N", 1, HEIGHT, WIDTH])], 11
    )


def channels_last_network() -> onnx.ModelProto:
    """Return a network of opset 13: uint8 (1, H, W, 3), scaled inside; logits (1, h, w, 1)."""
    graph = _Graph()
    x = graph.add("Cast", [graph.add("Transpose", ["frame"], "planes", perm=[0, 3, 1, 2])], "v", to=FLOAT)
    x = graph.add("Mul", [x, graph.constant("unit", 1 / 127.5)], "v2")
    x = graph.add("Sub", [x, graph.constant("one", 1.0)], "v3")
    x = graph.add("Relu", [graph.convolve(x, "c1", (3, 16), strides=[2, 2])], "r1")
    x = graph.add("Relu", [graph.convolve(x, "c2", (16, 16), group=1)], "r2")
    x = graph.convolve(graph.add("Add", [x, "r1"], "sum"), "c3", (16, 1), 4.0)
    graph.add("Transpose", [x], "logits", perm=[0, 2, 3, 1])
    return graph.build(
        [("frame", UINT8, [1, HEIGHT, WIDTH, 3])], [("logits", FLOAT, [1, HEIGHT // 2, WIDTH // 2, 1])], 13
    )


def log_density_network() -> onnx.ModelProto:
    """Return a network of opset 22 with features as first output and a log density as second."""
    graph = _Graph()
    x = graph.add("Relu", [graph.convolve("rgb", "c1", (3, 16), strides=[2, 2])], "r1")
    x = graph.add("Relu", [graph.convolve(x, "c2", (16, 16))], "features")
    x = graph.convolve(x, "c3", (16, 1), 4.0)
    x = graph.add("Reshape", [x, graph.constant("flat", [1, -1], np.int64)], "flat_logits")
    x = graph.add("LogSoftmax", [x], "flat_log", axis=1)
    shape = [1, 1, HEIGHT // 2, WIDTH // 2]
    graph.add("Reshape", [x, graph.constant("map_shape", shape, np.int64)], "log_density")
    return graph.build(
        [("rgb", FLOAT, [1, 3, HEIGHT, WIDTH])],
        [("features", FLOAT, [1, 16, HEIGHT // 2, WIDTH // 2]), ("log_density", FLOAT, shape)],
        22,
        ir=10,
    )


def window_network() -> onnx.ModelProto:
    """Return a network of opset 17 that takes (1, T, 3, H, W) and gives (1, H, W) by Sigmoid."""
    graph = _Graph()
    x = graph.add("Transpose", ["clip"], "ncthw", perm=[0, 2, 1, 3, 4])
    x = graph.convolve(x, "c1", (3, 16), kernel=(3, 3, 3), strides=[1, 2, 2])
    x = graph.convolve(graph.add("Relu", [x], "r1"), "c2", (16, 16), kernel=(WINDOW, 1, 1), pads=[0] * 6)
    x = graph.add("Squeeze", [graph.add("Relu", [x], "r2"), graph.constant("t", [2], np.int64)], "plane")
    x = graph.convolve(graph.convolve(x, "c3", (16, 16)), "c4", (16, 1), 3.0)
    graph.add("Squeeze", [graph.add("Sigmoid", [x], "s"), graph.constant("c", [1], np.int64)], "map")
    return graph.build(
        [("clip", FLOAT, [1, WINDOW, 3, HEIGHT, WIDTH])], [("map", FLOAT, [1, HEIGHT // 2, WIDTH // 2])], 17
    )


def recurrent_network() -> onnx.ModelProto:
    """Return a network of opset 20 with a state h, BGR grey levels without their mean, and a flat output."""
    graph = _Graph()
    x = graph.add("Relu", [graph.convolve("bgr", "c1", (3, 16), 0.02, strides=[2, 2])], "r1")
    x = graph.add("Concat", [x, "h"], "joined", axis=1)
    graph.add("Tanh", [graph.convolve(x, "c2", (32, 16))], "h_next")
    x = graph.convolve("h_next", "c3", (16, 1), 3.0)
    graph.add("Flatten", [graph.add("Sigmoid", [x], "s")], "flat_map")
    state = [1, 16, HEIGHT // 2, WIDTH // 2]
    return graph.build(
        [("bgr", FLOAT, [1, 3, "height", "width"]), ("h", FLOAT, state)],
        [("flat_map", FLOAT, [1, HEIGHT * WIDTH // 4]), ("h_next", FLOAT, state)],
        20,
        ir=9,
    )


def half_network() -> onnx.ModelProto:
    """Return a network of opset 12 in float16, with weights as inputs and without biases."""
    graph = _Graph()
    x = graph.add("Relu", [graph.convolve("gray", "c1", (1, 16), strides=[2, 2])], "r1")
    x = graph.add("Relu", [graph.convolve(x, "c2", (16, 16))], "r2")
    graph.convolve(x, "logits", (16, 1), 4.0)
    model = graph.build(
        [("gray", FLOAT, [1, 1, HEIGHT, WIDTH])], [("logits", FLOAT, [1, 1, HEIGHT // 2, WIDTH // 2])], 12
    )
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.input[2] = ""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = FLOAT16
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, FLOAT16, tensor.dims) for tensor in model.graph.initializer
    )
    return model


def save_network(model: onnx.ModelProto, path: Path) -> Path:
    """Write a network to a file, and return its path."""
    onnx.save(model, path)
    return path
