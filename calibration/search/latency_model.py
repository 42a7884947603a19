"""Latency by a stated model, for an engine that cannot run on this machine: TensorRT without its GPU.

The latency of a graph is the sum over its kernels. Each kernel takes the longer of two times, arithmetic
and memory traffic, plus a fixed launch cost (roofline model: Williams et al., CACM 2009).

Operators that TensorRT fuses are counted once:

- ReLU, Clip and a residual Add belong to the convolution before them.
- Adjacent pointwise operators form one kernel.
- A Q belongs to the pointwise operator before it, or (through pooling and Concat) to the convolution that
  produces its input, if that convolution computes in integers.
- A DQ belongs to the convolution that reads it.

Every other Q or DQ is a kernel of its own that reads and writes its tensor. This is the cost of a change of
precision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import NodeProto

from calibration.quantization.qdq_placement import CONVOLUTIONS, PASS_THROUGH, fusible_residual_adds
from calibration.search.latency_benchmark import ConfirmedLatency
from edge.core.errors import InputError
from edge.release.graph_work import COUNTED_OPERATORS, count_macs

FUSED_OPERATORS = {"Relu", "Clip", "Add", "BatchNormalization", "LeakyRelu"}
"""Pointwise operators that are fused into the convolution before them."""
POINTWISE_OPERATORS = FUSED_OPERATORS | {
    "Sigmoid",
    "Mul",
    "Sub",
    "Div",
    "Exp",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Elu",
    "Erf",
    "Pow",
}
"""Pointwise operators; adjacent ones form one kernel."""
FREE_OPERATORS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Constant", "Shape"}
"""Operators without work on a GPU."""
Shapes = dict[str, list[int]]
Producers = dict[str, NodeProto]
Consumers = dict[str, list[NodeProto]]


@dataclass(frozen=True)
class BoardSpec:
    """Peak performance of a board, and the fraction of it that kernels reach.

    Attributes:
        name: Name of the board.
        fp16_tmacs: Peak rate in float16, 1e12 multiply-accumulates per second.
        int8_tmacs: Peak rate in int8, 1e12 multiply-accumulates per second.
        memory_gb_s: Peak memory bandwidth, 1e9 bytes per second.
        launch_us: Launch cost of each kernel, microseconds.
        efficiency: Fraction of the peak values that kernels reach.
    """

    name: str
    fp16_tmacs: float
    int8_tmacs: float
    memory_gb_s: float
    launch_us: float
    efficiency: float


ORIN_NX = BoardSpec("Orin NX 16 GB", 7.5, 15.0, 102.4, 3.0, 0.5)
"""8 multiprocessors at 918 MHz, each with 1024 fp16 and 2048 int8 multiply-accumulates per cycle; LPDDR5.

Launch cost and efficiency are assumptions.
"""


@dataclass(frozen=True)
class ModelledLatency:
    """Latency on a board by the model of this module.

    Attributes:
        model: The float graph, which runs in fp16.
        board: The board.
    """

    model: onnx.ModelProto
    board: BoardSpec = ORIN_NX

    kind = "modelled"

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the latency of the candidate and of the fp16 graph, ms. Q/DQ nodes mark the int8 layers."""
        return modelled_latency_ms(candidate, self.board), modelled_latency_ms(self.model, self.board)

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Return the same latency with its gain; a model has no noise."""
        candidate_ms, float_ms = self(candidate)
        return ConfirmedLatency(candidate_ms, float_ms, 1 - candidate_ms / float_ms)

    def layer_gains(self, candidate: onnx.ModelProto) -> None:
        """Return nothing: timing whole graphs by the model costs little."""

    def conditions(self) -> dict[str, object]:
        """Return the numbers of the model, to be stored with its results."""
        return {"model": "roofline, fused as TensorRT does; batch 1", **asdict(self.board)}


def modelled_latency_ms(model: onnx.ModelProto, board: BoardSpec = ORIN_NX) -> float:
    """Return the modelled latency of a graph at batch 1, ms.

    Raises:
        InputError: If a shape cannot be inferred.
    """
    shapes = _activation_shapes(model)
    graph = model.graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    consumers: Consumers = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    fused = _fused_nodes(graph, producers, consumers)
    seconds = 0.0
    for node in graph.node:
        if node.name in fused or node.op_type in FREE_OPERATORS or (node.input and node.input[0] in weights):
            continue  # weights are prepared when the engine is built
        integer = _is_integer_convolution(node, producers)
        moved_bytes = sum(
            _read_bytes(name, shapes, producers, integer) for name in node.input if name in shapes
        )
        moved_bytes += sum(_written_bytes(name, shapes, consumers) for name in node.output if name in shapes)
        macs = _node_macs(node, shapes, weights, producers)
        rate = board.int8_tmacs if integer else board.fp16_tmacs
        seconds += board.launch_us * 1e-6 + max(
            macs / (rate * 1e12 * board.efficiency),
            moved_bytes / (board.memory_gb_s * 1e9 * board.efficiency),
        )
    return 1e3 * seconds


def _fused_nodes(graph: onnx.GraphProto, producers: Producers, consumers: Consumers) -> set[str]:
    """Return the names of the nodes that are part of another node's kernel."""
    convolutions = [node for node in graph.node if node.op_type in CONVOLUTIONS]
    residual_adds = {
        add.name
        for node in convolutions
        for add in fusible_residual_adds(node, producers, consumers, convolutions)
    }
    fused: set[str] = set()
    for node in graph.node:
        if not node.input:
            continue
        before = producers.get(node.input[0])
        if node.op_type == "DequantizeLinear":
            after = [c for name in node.output for c in consumers.get(name, [])]
            if after and all(c.op_type in CONVOLUTIONS or c.name in residual_adds for c in after):
                fused.add(node.name)
        elif node.op_type == "QuantizeLinear":
            while before is not None and (before.op_type in PASS_THROUGH or before.name in fused):
                before = producers.get(_main_input(before, producers, fused)) if before.input else None
            if before is not None and (
                before.op_type in POINTWISE_OPERATORS or _is_integer_convolution(before, producers)
            ):
                fused.add(node.name)
        elif node.op_type in FUSED_OPERATORS - {"Add"} or node.name in residual_adds:
            inputs = [producers[name] for name in node.input if name in producers]
            if any(b.op_type in CONVOLUTIONS or b.name in fused for b in inputs):
                fused.add(node.name)
        elif node.op_type in POINTWISE_OPERATORS and any(
            producers[name].op_type in POINTWISE_OPERATORS for name in node.input if name in producers
        ):
            fused.add(node.name)
    return fused


def _main_input(node: NodeProto, producers: Producers, fused: set[str]) -> str:
    """Return the input that connects a fused node to its convolution."""
    names = [name for name in node.input if name in producers]
    direct = [n for n in names if producers[n].op_type in CONVOLUTIONS or producers[n].name in fused]
    return str(next((n for n in direct if producers[n].op_type != "DequantizeLinear"), (names or [""])[0]))


def _is_integer_convolution(node: NodeProto, producers: Producers) -> bool:
    """Return whether a convolution computes in integers: its data and its weights come from DQ nodes."""
    sources = [producers.get(name) for name in node.input[:2]]
    return node.op_type in CONVOLUTIONS and all(
        source is not None and source.op_type == "DequantizeLinear" for source in sources
    )


def convolution_mmacs(model: onnx.ModelProto) -> dict[str, float]:
    """Return the multiply-accumulates of each convolution by name, in units of 1e6, at least 1e-3."""
    shapes = _activation_shapes(model)
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return {
        node.name: max(_node_macs(node, shapes, weights, {}) / 1e6, 1e-3)
        for node in model.graph.node
        if node.op_type in CONVOLUTIONS
    }


def _node_macs(node: NodeProto, shapes: Shapes, weights: Shapes, producers: Producers) -> int:
    """Return the multiply-accumulates of a node; quantized weights have the shape of what their DQ reads."""
    if node.op_type not in COUNTED_OPERATORS:
        return 0
    inputs = []
    for name in node.input:
        source = producers.get(name)
        stored = source.input[0] if source is not None and source.input else name
        inputs.append(tuple(weights.get(name, weights.get(stored, shapes.get(name, [])))))
    # A recurrent layer may leave out its first output.
    return count_macs(node.op_type, inputs, tuple(shapes.get(node.output[0], [])))


def _read_bytes(name: str, shapes: Shapes, producers: Producers, integer: bool) -> float:
    source = producers.get(name)
    from_dq = source is not None and source.op_type == "DequantizeLinear"
    from_q = source is not None and source.op_type == "QuantizeLinear"
    return float(np.prod(shapes[name])) * (1 if from_q or (from_dq and integer) else 2)


def _written_bytes(name: str, shapes: Shapes, consumers: Consumers) -> float:
    after = consumers.get(name, [])
    while len(after) == 1 and after[0].op_type in FUSED_OPERATORS:
        after = consumers.get(after[0].output[0], [])
    as_int8 = bool(after) and all(c.op_type in ("QuantizeLinear", "DequantizeLinear") for c in after)
    return float(np.prod(shapes[name])) * (1 if as_int8 else 2)


def _activation_shapes(model: onnx.ModelProto) -> Shapes:
    """Return the shape of every activation; a dynamic batch counts as 1."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    constants = {t.name for t in inferred.initializer}
    shapes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.name in constants:
            continue
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [d.dim_value or 1 for d in dims]
    missing = next((o for n in inferred.node for o in n.output if o and o not in shapes), None)
    if missing is not None:
        raise InputError(
            f"the shape of {missing} cannot be inferred; expected a graph of fixed size: set --size"
        )
    return shapes
