"""Layer times from TensorRT's profiler, with the layer descriptions of its engine inspector.

The inspector's JSON is described in TensorRT's documentation, "Engine Inspector", and in its guide for the
migration from 10 to 11, "IEngineInspector". An engine built without details contains only layer names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge.inference.interface.layer_times import LayerTime

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PRECISIONS = (
    ("fp16", ("fp16", "half")),
    ("bf16", ("bf16", "bfloat16")),
    ("int8", ("int8",)),
    ("fp32", ("fp32", "float")),
)
_CONVERSIONS = {"reformat": "reformat", "shuffle": "reformat", "cast": "cast"}
_QUANTIZATION = {"quantize": "quantise", "dequantize": "dequantise"}


def read_layers(times_ms: Mapping[str, Sequence[float]], inspected: str, warm: int) -> list[LayerTime]:
    """Return the layers in execution order.

    Args:
        times_ms: Milliseconds of every run, by layer name.
        inspected: The inspector's JSON of the engine.
        warm: Number of runs to leave out at the start.
    """
    described: dict[str, dict[str, Any]] = {}
    for layer in json.loads(inspected).get("Layers", []):
        if isinstance(layer, dict):
            described[layer["Name"]] = layer
    return [
        _layer(name, described.get(name, {}), float(np.median(times[min(warm, len(times) - 1) :])))
        for name, times in times_ms.items()
    ]


def _layer(name: str, description: Mapping[str, Any], ms: float) -> LayerTime:
    nodes = tuple(_NODE.findall(description.get("Metadata", ""))) or tuple(re.split(r" \+ | \|\| ", name))
    op = str(description.get("LayerType", ""))
    kind = _CONVERSIONS.get(op.lower(), "reformat" if name.startswith("Reformatting CopyNode") else "compute")
    detail = str(description.get("ParameterSubType", description.get("ParameterType", ""))).lower()
    kind = _QUANTIZATION.get(op.lower(), _QUANTIZATION.get(detail, kind))
    outputs = description.get("Outputs", [])
    return LayerTime(name, nodes, op or "-", kind, _precision(outputs[0]) if outputs else "-", ms)


def _precision(tensor: Mapping[str, Any]) -> str:
    """Return the precision of a tensor. TensorRT 10 has one text for format and type, 11 has two fields."""
    text = str(tensor.get("DataType", tensor.get("Format/Datatype", ""))).lower()
    return next((name for name, words in _PRECISIONS if any(word in text for word in words)), text or "-")
