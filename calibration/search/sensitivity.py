"""What each layer's quantisation does to the map: it alone, and all but it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import QdqScheme, quantizable_layers
from calibration.search.accuracy import AccuracyEvaluator, Quality
from edge.core.errors import InputError
from edge.release.quantization import TensorRanges


@dataclass(frozen=True)
class LayerSensitivity:
    """A layer and the map's quality: the layer alone in int8, and every other one but it."""

    layer: str
    operator: str
    alone: Quality
    all_but: Quality


@dataclass(frozen=True)
class Sensitivity:
    """Of a whole graph: all its layers in int8, and each; in the order of the graph."""

    whole: Quality
    layers: tuple[LayerSensitivity, ...]


def measure_sensitivity(
    model: onnx.ModelProto,
    ranges: TensorRanges,
    scheme: QdqScheme,
    judge: AccuracyEvaluator,
    on_graph: Callable[[int], None] = lambda count: None,
) -> Sensitivity:
    """Judge 2 n + 1 graphs, n the number of layers that int8 may serve.

    Raises:
        InputError: it may serve none.
    """
    names = quantizable_layers(model, scheme)
    if not names:
        raise InputError(
            "no layer of the graph can be quantised; expected convolutions of 16 channels or more, "
            "whose weights are constants: leave this graph in float"
        )
    operators = {node.name: node.op_type for node in model.graph.node}
    everything = frozenset(names)

    def judged(only: frozenset[str]) -> Quality:
        found = judge(quantize(model, ranges, scheme, only) if only else model)
        on_graph(1)
        return found

    whole = judged(everything)
    layers = [
        LayerSensitivity(name, operators[name], judged(frozenset({name})), judged(everything - {name}))
        for name in names
    ]
    return Sensitivity(whole, tuple(layers))
