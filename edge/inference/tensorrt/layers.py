"""Layers and their times by TensorRT's profiler, described by its engine inspector.

The inspector's JSON: TensorRT's documentation, "Engine Inspector", and its guide to migrating from 10 to 11,
"IEngineInspector". Names alone are there if an engine was built without details.
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
_QUANTISING = {"quantize": "quantise", "dequantize": "dequantise"}


def read_layers(times_ms: Mapping[str, Sequence[float]], inspected: str, warm: int) -> list[LayerTime]:
    """Return the layers in the order they ran in, less the first `warm` times of each.

    `times_ms`: by the layer's name, of each run; `inspected`: the engine's JSON.
    """
    described: dict[str, dict[str, Any]] = {}
    for layer in json.loads(inspected).get("Layers", []):
        if isinstance(layer, dict):
            described[layer["Name"]] = layer
    return [
        _layer(name, described.get(name, {}), float(np.median(times[min(warm, len(times) - 1) :])))
        for name, times in times_ms.items()
    ]


def _layer(name: str, about: Mapping[str, Any], ms: float) -> LayerTime:
    nodes = tuple(_NODE.findall(about.get("Metadata", ""))) or tuple(re.split(r" \+ | \|\| ", name))
    op = str(about.get("LayerType", ""))
    kind = _CONVERSIONS.get(op.lower(), "reformat" if name.startswith("Reformatting CopyNode") else "compute")
    detail = str(about.get("ParameterSubType", about.get("ParameterType", ""))).lower()
    kind = _QUANTISING.get(op.lower(), _QUANTISING.get(detail, kind))
    outputs = about.get("Outputs", [])
    return LayerTime(name, nodes, op or "-", kind, _precision(outputs[0]) if outputs else "-", ms)


def _precision(tensor: Mapping[str, Any]) -> str:
    """TensorRT 10 has one text of format and type; 11 has them apart."""
    told = str(tensor.get("DataType", tensor.get("Format/Datatype", ""))).lower()
    return next((ours for ours, theirs in _PRECISIONS if any(word in told for word in theirs)), told or "-")
