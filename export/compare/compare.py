"""Two graphs on the same frames: how far apart their outputs are, and where inside they part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.core.errors import InputError
from edge.core.frames import Frame, Image
from edge.metrics.saliency import cc, kld, sqnr_db
from export.compare.graph_stepper import GraphStepper

Array = NDArray[Any]
NON_LAYER_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "Constant"}
"""Operators whose outputs are no layer's of their own."""


@dataclass
class TensorDifference:
    """What was found of one tensor over all frames, of `b` against `a`.

    `sqnr_db`: of `a` over the difference, over all values of all frames. `cc`: one a frame, where both
    vary; `kld`: one a frame, of the values as densities: what is below 0 is lifted to it by the least first.
    """

    max_error: float = 0.0
    _sum: float = 0.0
    _count: int = 0
    _signal: float = 0.0
    _noise: float = 0.0
    cc: list[float] = field(default_factory=list)
    kld: list[float] = field(default_factory=list)

    def add(self, a: Array, b: Array, saliency: bool = False) -> None:
        """Take one frame's values in, of any float type."""
        x, y = a.astype(np.float64), b.astype(np.float64)
        error = np.abs(x - y)
        self.max_error = float(np.maximum(self.max_error, error.max()))  # NaN stays
        self._sum += float(error.sum())
        self._count += error.size
        self._signal += float((x * x).sum())
        self._noise += float((error * error).sum())
        if not np.isfinite(error).all():
            self.cc.append(math.nan)
            self.kld.append(math.nan)
            return
        if saliency or (np.ptp(x) > 0 and np.ptp(y) > 0):
            same = np.array_equal(x, y)  # a constant map has no correlation, and is like itself
            self.cc.append(1.0 if same else cc(x, y))
        self.kld.append(kld(y, x))

    @property
    def mean_error(self) -> float:
        """Return the mean absolute difference."""
        return self._sum / self._count

    @property
    def sqnr_db(self) -> float:
        """Return the signal's power over the difference's, in dB."""
        return sqnr_db(self._signal, self._noise)

    def summary(self) -> dict[str, float | None]:
        """Return it as plain numbers; None where there is none."""
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
    """The frame whose maps are least alike, `image` (H, W, 3) BGR, with both maps (h, w)."""

    index: int
    image: Image
    a: Array
    b: Array
    cc: float


@dataclass(frozen=True)
class MatchedLayer:
    """A tensor that both graphs have: its name, what makes it in A, and what it is called in either."""

    name: str
    operator: str
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """What was found: by output, and by layer in A's order if that was asked for."""

    frames: int
    saliency: str
    outputs: dict[str, TensorDifference]
    layers: dict[str, TensorDifference]
    worst: WorstFrame

    def diverging(self, least_db: float) -> str | None:
        """Return the first layer whose SQNR is below a limit; one that is not a number is."""
        return next((name for name, t in self.layers.items() if not t.sqnr_db >= least_db), None)


def compare_graphs(
    a: GraphStepper,
    b: GraphStepper,
    frames: Iterable[Frame],
    fps: float,
    layers: Sequence[MatchedLayer] = (),
    on_frame: Callable[[], None] = lambda: None,
) -> Comparison:
    """Step both through the frames of one clip, each with states of its own, as they would fly.

    Raises:
        InputError: no frames; outputs of other shapes, or none in common.
    """
    for side in (a, b):
        side.reset(fps)
    names = [a.saliency, *(name for name in a.outputs if name in b.outputs and name != a.saliency)]
    outputs = {name: TensorDifference() for name in names}
    inside = {layer.name: TensorDifference() for layer in layers}
    worst: WorstFrame | None = None
    shown: list[Frame] = []
    for frame in frames:
        shown = [*shown, frame][-1 - a.delay_frames :]
        x, y = a.step(frame.image), b.step(frame.image)
        on_frame()
        if x is None or y is None or len(shown) <= a.delay_frames:
            continue  # a clip that is not full, or the map of a frame before the first
        for name, tally in outputs.items():
            other = b.saliency if name == a.saliency else name
            _check_shapes(name, x[name], y[other])
            tally.add(x[name], y[other], saliency=name == a.saliency)
        for layer in layers:
            _check_shapes(layer.name, x[layer.a], y[layer.b])
            inside[layer.name].add(x[layer.a], y[layer.b])
        found = outputs[a.saliency].cc[-1]
        if worst is None or not found >= worst.cc:
            maps = (_map(x[a.saliency]), _map(y[b.saliency]))
            worst = WorstFrame(shown[0].index, shown[0].image, *maps, found)
    if worst is None:
        raise InputError("too few frames for a map: expected more readable footage, 16 frames for clips")
    return Comparison(len(outputs[a.saliency].cc), a.saliency, outputs, inside, worst)


def _map(output: Array) -> Array:
    """Return an output's last map (H, W), its channel first or last; of what is no map, a row of values."""
    if output.ndim == 4 and output.shape[3] == 1 < output.shape[1]:
        output = output[..., 0]
    rows = np.atleast_2d(output)
    return np.asarray(rows.reshape(-1, *rows.shape[-2:])[-1], np.float32)


def _check_shapes(name: str, a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"{name} is {a.shape} in A and {b.shape} in B; expected graphs whose maps have one size: "
            "compare two precisions of one student"
        )


def match_layers(a: onnx.ModelProto, b: onnx.ModelProto) -> list[MatchedLayer]:
    """Return the tensors that both graphs have, in A's order; the outputs of the graph are among them.

    Where a graph rounds a tensor (QuantizeLinear, DequantizeLinear), what its readers see is taken.

    Raises:
        InputError: there is none.
    """
    seen_a, seen_b = _seen(a), _seen(b)
    found = [
        MatchedLayer(name, operator, tensor, seen_b[name][1])
        for name, (operator, tensor) in seen_a.items()
        if name in seen_b
    ]
    if not found:
        raise InputError(
            "no tensor inside has the same name in A and B, so layers cannot be told to belong together; "
            "expected two precisions of one graph: leave --layers out"
        )
    return found


def _seen(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Return operator and what readers see of each float tensor that a node makes, in order."""
    made_by = {output: node for node in model.graph.node for output in node.output if output}
    restored = {}
    for node in model.graph.node:
        source = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            restored[source.input[0]] = node.output[0]
    given = {output.name for output in model.graph.output}
    return {
        **{
            name: (node.op_type, restored.get(name, name))
            for name, node in made_by.items()
            if node.op_type not in NON_LAYER_OPERATORS
        },
        **{  # an output keeps its name behind the rounding
            after: (made_by[before].op_type, after)
            for before, after in restored.items()
            if after in given and before in made_by
        },
    }
