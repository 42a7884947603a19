"""Builder of a network in a style, node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.support.random_networks.styles import UNLUCKY_NAMES, Style

WIDTH, HEIGHT = 24, 16


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

    def reduce(self, operator: str, x: str, axes: Sequence[int]) -> str:
        """Reduce over axes, which newer opsets take as an input, and keep the dimensions."""
        if self.opset >= (13 if operator == "ReduceSum" else 18):
            return self.add(operator, x, self.whole(*axes), keepdims=1)
        return self.add(operator, x, axes=axes, keepdims=1)

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
"""Adds its nodes to a sketch after a value, and returns the value that the next block takes."""
Blocks = dict[str, tuple[int, Block]]
"""Blocks by name, each with the first opset that has its operators."""
