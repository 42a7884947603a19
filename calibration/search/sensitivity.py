"""Sensitivity of the saliency map to the quantization of single layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from calibration.quantization.qdq import quantize
from calibration.quantization.qdq_placement import QdqScheme, quantizable_layers
from calibration.search.accuracy import AccuracyEvaluator, Quality
from edge.core.errors import InputError
from edge.release.quantization import TensorRanges


# The field names of both classes are keys of the command's JSON output.
@dataclass(frozen=True)
class LayerSensitivity:
    """Sensitivity to one layer.

    Attributes:
        layer: Name of the layer.
        operator: ONNX operator of the layer.
        alone: Quality with only this layer in int8.
        all_but: Quality with every other layer in int8.
    """

    layer: str
    operator: str
    alone: Quality
    all_but: Quality


@dataclass(frozen=True)
class Sensitivity:
    """Quality with all layers in int8, and the sensitivity to each layer in graph order."""

    whole: Quality
    layers: tuple[LayerSensitivity, ...]


def measure_sensitivity(
    model: onnx.ModelProto,
    ranges: TensorRanges,
    scheme: QdqScheme,
    evaluator: AccuracyEvaluator,
    on_graph: Callable[[int], None] = lambda count: None,
    disable_qdq_fusion: bool = False,
) -> Sensitivity:
    """Evaluate 2 n + 1 graphs, n being the number of layers that can be quantized.

    Args:
        model: The fp32 graph.
        ranges: Ranges of its activations.
        scheme: The Q/DQ scheme of the engine.
        evaluator: Compares maps with those of the fp32 graph.
        on_graph: Called with 1 after each graph.
        disable_qdq_fusion: Run Q/DQ nodes as separate operators, see `open_session`.

    Raises:
        InputError: If no layer can be quantized.
    """
    names = quantizable_layers(model, scheme)
    if not names:
        raise InputError(
            "no layer of the graph can be quantized; expected convolutions of 16 channels or more, "
            "whose weights are constants: keep this graph in float"
        )
    operators = {node.name: node.op_type for node in model.graph.node}
    all_layers = frozenset(names)

    def evaluate(layers: frozenset[str]) -> Quality:
        graph = quantize(model, ranges, scheme, layers) if layers else model
        quality = evaluator(graph, disable_qdq_fusion)
        on_graph(1)
        return quality

    whole = evaluate(all_layers)
    layers = [
        LayerSensitivity(name, operators[name], evaluate(frozenset({name})), evaluate(all_layers - {name}))
        for name in names
    ]
    return Sensitivity(whole, tuple(layers))
