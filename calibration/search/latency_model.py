"""Latency by a stated model, for an engine that cannot run here: TensorRT without its GPU.

A graph's latency is the sum over its kernels of the longer of two times, arithmetic and memory traffic,
and of a fixed cost to launch each (the roofline of Williams et al., CACM 2009). What TensorRT fuses is
counted once: ReLU, Clip and a residual Add into the convolution before them; other operators that go
element by element into one another; a Q into the one before it, or (through pooling and Concat) into the
convolution that makes its input if that computes in integers; a DQ into the convolution that takes it.
Every other Q or DQ is a kernel of its own, which reads and writes its tensor: what a change of precision
costs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import NodeProto

from calibration.quantization.qdq_placement import PASS_THROUGH, fusible_residual_adds
from calibration.search.latency_benchmark import ConfirmedLatency
from edge.core.errors import InputError

FUSED_OPERATORS = {"Relu", "Clip", "Add", "BatchNormalization", "LeakyRelu"}
"""Element by element behind a convolution: no kernel of their own."""
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
"""Element by element: neighbours among these are one kernel."""
FREE_OPERATORS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Constant", "Shape"}
"""No work on a GPU."""


@dataclass(frozen=True)
class BoardSpec:
    """What a board computes and moves, at best, and the share of it that kernels reach."""

    name: str
    fp16_tmacs: float
    int8_tmacs: float
    memory_gb_s: float
    launch_us: float
    efficiency: float


ORIN_NX = BoardSpec("Orin NX 16 GB", 7.5, 15.0, 102.4, 3.0, 0.5)
"""8 multiprocessors at 918 MHz, 1024 fp16 and 2048 int8 multiply-accumulates a cycle each, dense; LPDDR5.
Launch and efficiency are assumed."""


@dataclass(frozen=True)
class ModelledLatency:
    """Latency on a board by the model of this module. `model`: the float graph, which runs in fp16."""

    model: onnx.ModelProto
    board: BoardSpec = ORIN_NX

    kind = "modelled"

    def __call__(self, candidate: onnx.ModelProto) -> tuple[float, float]:
        """Return the candidate's latency and the fp16 graph's, ms. Q/DQ tell what is int8."""
        return modelled_latency_ms(candidate, self.board), modelled_latency_ms(self.model, self.board)

    def confirm(self, candidate: onnx.ModelProto) -> ConfirmedLatency:
        """Return the same, with what is won: a model has no noise."""
        candidate_ms, float_ms = self(candidate)
        return ConfirmedLatency(candidate_ms, float_ms, 1 - candidate_ms / float_ms)

    def conditions(self) -> dict[str, object]:
        """Return the model's numbers, to stand beside what it says."""
        return {"model": "roofline, fused as TensorRT does; batch 1", **asdict(self.board)}


def modelled_latency_ms(model: onnx.ModelProto, board: BoardSpec = ORIN_NX) -> float:
    """Return the modelled latency of a graph at batch 1.

    Raises:
        InputError: a shape cannot be inferred.
    """
    sizes = _sizes(model)
    graph = model.graph
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    fused = _fused(graph, made_by, consumers)
    seconds = 0.0
    for node in graph.node:
        if node.name in fused or node.op_type in FREE_OPERATORS or (node.input and node.input[0] in weights):
            continue  # weights are made ready when the engine is built
        integer = _integer(node, made_by)
        moved = sum(_bytes(name, sizes, made_by, integer) for name in node.input if name in sizes)
        moved += sum(_written(name, sizes, consumers) for name in node.output if name in sizes)
        macs = _macs(node, sizes, weights, made_by)
        rate = board.int8_tmacs if integer else board.fp16_tmacs
        seconds += board.launch_us * 1e-6 + max(
            macs / (rate * 1e12 * board.efficiency), moved / (board.memory_gb_s * 1e9 * board.efficiency)
        )
    return 1e3 * seconds


def _fused(
    graph: onnx.GraphProto, made_by: dict[str, NodeProto], consumers: dict[str, list[NodeProto]]
) -> set[str]:
    """Return the names of the nodes that are no kernels of their own."""
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    sums = {
        s.name for node in convolutions for s in fusible_residual_adds(node, made_by, consumers, convolutions)
    }
    fused: set[str] = set()
    for node in graph.node:
        if not node.input:
            continue
        before = made_by.get(node.input[0])
        if node.op_type == "DequantizeLinear":
            after = [c for name in node.output for c in consumers.get(name, [])]
            if after and all(c.op_type in ("Conv", "ConvTranspose") or c.name in sums for c in after):
                fused.add(node.name)
        elif node.op_type == "QuantizeLinear":
            while before is not None and (before.op_type in PASS_THROUGH or before.name in fused):
                before = made_by.get(_through(before, made_by, fused)) if before.input else None
            if before is not None and (before.op_type in POINTWISE_OPERATORS or _integer(before, made_by)):
                fused.add(node.name)
        elif node.op_type in FUSED_OPERATORS - {"Add"} or node.name in sums:
            inputs = [made_by[name] for name in node.input if name in made_by]
            if any(b.op_type in ("Conv", "ConvTranspose") or b.name in fused for b in inputs):
                fused.add(node.name)
        elif node.op_type in POINTWISE_OPERATORS and any(
            made_by[name].op_type in POINTWISE_OPERATORS for name in node.input if name in made_by
        ):
            fused.add(node.name)
    return fused


def _through(node: NodeProto, made_by: dict[str, NodeProto], fused: set[str]) -> str:
    """Return the input by which a fused node hangs on its convolution."""
    names = [name for name in node.input if name in made_by]
    direct = [n for n in names if made_by[n].op_type in ("Conv", "ConvTranspose") or made_by[n].name in fused]
    return str(next((n for n in direct if made_by[n].op_type != "DequantizeLinear"), (names or [""])[0]))


def _integer(node: NodeProto, made_by: dict[str, NodeProto]) -> bool:
    """Say whether a convolution computes in integers: data and weights come from DQ."""
    made = [made_by.get(name) for name in node.input[:2]]
    return node.op_type in ("Conv", "ConvTranspose") and all(
        m is not None and m.op_type == "DequantizeLinear" for m in made
    )


def convolution_mmacs(model: onnx.ModelProto) -> dict[str, float]:
    """Return the multiply-accumulates of each convolution, by its name, in units of 1e6, at least 1e-3."""
    sizes = _sizes(model)
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return {
        node.name: max(_macs(node, sizes, weights, {}) / 1e6, 1e-3)
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    }


def _macs(
    node: NodeProto,
    sizes: dict[str, list[int]],
    weights: dict[str, list[int]],
    made_by: dict[str, NodeProto],
) -> float:
    """Return the multiply-accumulates: each weight meets each position, of the output, or of the input
    where it is transposed.
    """
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2:
        return 0.0
    name = node.input[1]
    source = made_by.get(name)
    dims = weights.get(source.input[0] if source is not None else name, sizes.get(name, []))
    data = sizes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0], [])
    if node.op_type in ("Gemm", "MatMul"):
        return float(np.prod(data) * (dims[0] if dims else 1))
    return float(np.prod(dims) * np.prod(data[2:]) * data[0])


def _bytes(name: str, sizes: dict[str, list[int]], made_by: dict[str, NodeProto], integer: bool) -> float:
    source = made_by.get(name)
    from_dq = source is not None and source.op_type == "DequantizeLinear"
    quantised = source is not None and source.op_type == "QuantizeLinear"
    return float(np.prod(sizes[name])) * (1 if quantised or (from_dq and integer) else 2)


def _written(name: str, sizes: dict[str, list[int]], consumers: dict[str, list[NodeProto]]) -> float:
    after = consumers.get(name, [])
    while len(after) == 1 and after[0].op_type in FUSED_OPERATORS:
        after = consumers.get(after[0].output[0], [])
    integers = bool(after) and all(c.op_type in ("QuantizeLinear", "DequantizeLinear") for c in after)
    return float(np.prod(sizes[name])) * (1 if integers else 2)


def _sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return every activation's shape; a dynamic batch is 1."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {t.name for t in inferred.initializer}
    sizes = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.name in known:
            continue
        dims = value.type.tensor_type.shape.dim
        sizes[value.name] = [d.dim_value or 1 for d in dims]
    missing = next((o for n in inferred.node for o in n.output if o and o not in sizes), None)
    if missing is not None:
        raise InputError(
            f"the shape of {missing} cannot be inferred; expected a graph of fixed size: name --size"
        )
    return sizes
