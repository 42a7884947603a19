"""Comparison of two graphs on the same frames: differences of their outputs and of their inner tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import Frame, Image
from edge.metrics.saliency import cc, kld, sqnr_db
from export.compare.graph_stepper import GraphStepper, Outputs

Array = NDArray[Any]
NON_LAYER_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "Constant"}
"""Operators whose outputs do not count as layers."""


@dataclass
class TensorDifference:
    """Difference of a tensor in B from the same tensor in A, over all frames.

    Attributes:
        max_error: Largest absolute difference.
        cc: Linear correlation coefficient of each frame on which both tensors vary.
        kld: Kullback-Leibler divergence of each frame, with the values as densities. If a tensor has values
            below 0, its minimum is subtracted first.
    """

    max_error: float = 0.0
    _error_sum: float = 0.0
    _count: int = 0
    _signal: float = 0.0
    _noise: float = 0.0
    cc: list[float] = field(default_factory=list)
    kld: list[float] = field(default_factory=list)

    def add(self, a: Array, b: Array, is_map: bool = False) -> None:
        """Add the values of one frame, of any float type.

        Args:
            a: Values in A.
            b: Values in B.
            is_map: The tensor is a saliency map, which has a correlation even if it is constant.
        """
        x, y = a.astype(np.float64), b.astype(np.float64)
        error = np.abs(x - y)
        self.max_error = float(np.maximum(self.max_error, error.max()))  # keeps NaN
        self._error_sum += float(error.sum())
        self._count += error.size
        self._signal += float((x * x).sum())
        self._noise += float((error * error).sum())
        if not np.isfinite(error).all():
            self.cc.append(math.nan)
            self.kld.append(math.nan)
            return
        if is_map or (np.ptp(x) > 0 and np.ptp(y) > 0):
            # CC is undefined for constant maps; two equal maps count as fully correlated.
            self.cc.append(1.0 if np.array_equal(x, y) else cc(x, y))
        self.kld.append(kld(y, x))

    @property
    def mean_error(self) -> float:
        """Mean absolute difference."""
        return self._error_sum / self._count

    @property
    def sqnr_db(self) -> float:
        """Power of A over the power of the difference, in dB, over all values of all frames."""
        return sqnr_db(self._signal, self._noise)

    def summary(self) -> dict[str, float | None]:
        """Return all numbers by name; None for a number that is not finite."""
        numbers = {
            "max_error": self.max_error,
            "mean_error": self.mean_error,
            "sqnr_db": self.sqnr_db,
            "cc": float(np.mean(self.cc)) if self.cc else math.nan,
            "least_cc": float(np.min(self.cc)) if self.cc else math.nan,
            "kld": float(np.mean(self.kld)) if self.kld else math.nan,
        }
        return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


@dataclass(frozen=True)
class WorstFrame:
    """The frame with the least correlation of both maps.

    Attributes:
        index: Index of the frame.
        image: The frame (H, W, 3), BGR.
        a: Map of A (h, w).
        b: Map of B (h, w).
        cc: Correlation of both maps.
    """

    index: int
    image: Image
    a: Array
    b: Array
    cc: float


@dataclass(frozen=True)
class MatchedLayer:
    """A layer whose output both graphs have.

    Attributes:
        name: Name of the layer's node in A, as in `aerogaze sensitivity` and `aerogaze profile`. A node that
            has no name, or the name of an earlier one, is called by its output.
        operator: Operator of the node.
        a: Name of the tensor in A whose values are compared.
        b: Name of the tensor in B whose values are compared.
    """

    name: str
    operator: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        frames: Number of maps compared.
        saliency: Name of A's output with the map.
        outputs: Difference of each output.
        layers: Difference of each matched layer, in A's order.
        worst: The frame with the least correlation.
    """

    frames: int
    saliency: str
    outputs: dict[str, TensorDifference]
    layers: dict[str, TensorDifference]
    worst: WorstFrame

    def first_diverging(self, min_db: float) -> str | None:
        """Return the first layer whose SQNR is less than `min_db` or NaN, if any."""
        return next((name for name, layer in self.layers.items() if not layer.sqnr_db >= min_db), None)


def compare_graphs(
    a: GraphStepper,
    b: GraphStepper,
    frames: Iterable[Frame],
    fps: float,
    layers: Sequence[MatchedLayer] = (),
    on_frame: Callable[[], None] = lambda: None,
) -> Comparison:
    """Run both graphs through one clip, each with its own states, as they would run in flight.

    Args:
        a: The reference.
        b: The graph that is compared with it.
        frames: The frames of the clip.
        fps: Frame rate of the clip.
        layers: Inner tensors to compare.
        on_frame: Called after each frame.

    Raises:
        InputError: If there are too few frames, or a tensor has different shapes in both graphs.
    """
    for stepper in (a, b):
        stepper.reset(fps)
    accumulator = _DifferenceAccumulator(a, b, layers)
    recent: list[Frame] = []
    for frame in frames:
        recent = [*recent, frame][-1 - a.delay_frames :]
        a_outputs, b_outputs = a.step(frame.image), b.step(frame.image)
        on_frame()
        if a_outputs is None or b_outputs is None or len(recent) <= a.delay_frames:
            continue  # a clip that is not full, or a delayed map of no frame
        accumulator.add(recent[0], a_outputs, b_outputs)
    return accumulator.result()


class _DifferenceAccumulator:
    """Differences of all outputs and layers, and the worst frame so far."""

    def __init__(self, a: GraphStepper, b: GraphStepper, layers: Sequence[MatchedLayer]) -> None:
        self._saliency, self._b_saliency, self._layers = a.saliency, b.saliency, layers
        shared = [name for name in a.outputs if name in b.outputs and name != a.saliency]
        self._output_differences = {name: TensorDifference() for name in (a.saliency, *shared)}
        self._layer_differences = {layer.name: TensorDifference() for layer in layers}
        self._worst: WorstFrame | None = None

    def add(self, frame: Frame, a: Outputs, b: Outputs) -> None:
        """Add the outputs for one frame."""
        for name, difference in self._output_differences.items():
            is_map = name == self._saliency
            b_name = self._b_saliency if is_map else name
            _check_shapes(name, a[name], b[b_name])
            difference.add(a[name], b[b_name], is_map)
        for layer in self._layers:
            _check_shapes(layer.name, a[layer.a], b[layer.b])
            self._layer_differences[layer.name].add(a[layer.a], b[layer.b])
        frame_cc = self._output_differences[self._saliency].cc[-1]
        if self._worst is None or not frame_cc >= self._worst.cc:  # NaN is worse than any number
            maps = (_last_map(a[self._saliency]), _last_map(b[self._b_saliency]))
            self._worst = WorstFrame(frame.index, frame.image, *maps, frame_cc)

    def result(self) -> Comparison:
        """Return the comparison."""
        if self._worst is None:
            raise InputError("too few frames for a map: expected more readable footage, 16 frames for clips")
        frames = len(self._output_differences[self._saliency].cc)
        return Comparison(
            frames, self._saliency, self._output_differences, self._layer_differences, self._worst
        )


def _last_map(output: Array) -> Array:
    """Return the last map (H, W) of an output, with its channel first or last; other outputs as one row."""
    if output.ndim == 4 and output.shape[3] == 1 < output.shape[1]:
        output = output[..., 0]
    rows = np.atleast_2d(output)
    return np.asarray(rows.reshape(-1, *rows.shape[-2:])[-1], np.float32)


def _check_shapes(name: str, a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"{name} is {a.shape} in A and {b.shape} in B; expected graphs whose maps have the same size: "
            "compare two precisions of one student"
        )


def match_layers(a: onnx.ModelProto, b: onnx.ModelProto) -> list[MatchedLayer]:
    """Return the layers whose outputs have the same name in both graphs, in A's order.

    If a graph quantizes an output, the values behind its Q/DQ nodes are compared.

    Raises:
        InputError: If there is no such layer.
    """
    a_tensors, b_tensors = _consumed_tensors(a), _consumed_tensors(b)
    layers: dict[str, MatchedLayer] = {}
    for output, (node, tensor) in a_tensors.items():
        if output in b_tensors:
            name = output if not node.name or node.name in layers else node.name
            layers[name] = MatchedLayer(name, node.op_type, tensor, b_tensors[output][1])
    if not layers:
        raise InputError(
            "no inner tensor has the same name in A and B, so layers cannot be matched; "
            "expected two precisions of one graph: leave --layers out"
        )
    return list(layers.values())


def _consumed_tensors(model: onnx.ModelProto) -> Mapping[str, tuple[onnx.NodeProto, str]]:
    """Return, for each output of a node, the node and the tensor that its consumers read.

    A graph's output keeps its name behind the Q/DQ nodes, so it is listed by that name.
    """
    producers = {output: node for node in model.graph.node for output in node.output if output}
    dequantized = {}
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            dequantized[source.input[0]] = node.output[0]
    outputs = {output.name for output in model.graph.output}
    consumed = {}
    for name, node in producers.items():
        if node.op_type not in NON_LAYER_OPERATORS:
            tensor = dequantized.get(name, name)
            consumed[tensor if tensor in outputs else name] = node, tensor
    return consumed
