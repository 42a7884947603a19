"""Layers and their times in ONNX Runtime's profile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.inference.interface.layer_times import LayerTime

CONVERSIONS = {
    "Cast": "cast",
    "QuantizeLinear": "quantise",
    "DequantizeLinear": "dequantise",
    "ReorderInput": "reformat",
    "ReorderOutput": "reformat",
    "Transpose": "reformat",
    "MemcpyToHost": "reformat",
    "MemcpyFromHost": "reformat",
}
"""Layers that compute nothing."""
_TYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8", "bfloat16": "bf16"}
_ADDED = re.compile(r"_kernel_time$|_token_\d+|_nchwc|_nhwc|_quant$|^InsertedPrecisionFreeCast_")
"""What the runtime adds to the names of nodes that it fuses or moves."""


def read_events(events: Sequence[dict[str, Any]], warm: int) -> list[LayerTime]:
    """Return the layers of a profile, its events of category Node, less the first `warm` of each."""
    times: dict[str, list[float]] = {}
    first: dict[str, dict[str, Any]] = {}
    nodes = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        name = str(event["name"]).removesuffix("_kernel_time")
        first.setdefault(name, event)
        times.setdefault(name, []).append(event["dur"] / 1e3)
    layers = []
    for name, event in first.items():
        op = str(event["args"].get("op_name", ""))
        ms = float(np.median(times[name][min(warm, len(times[name]) - 1) :]))
        precision = _precision(event["args"].get("output_type_shape", []))
        layers.append(
            LayerTime(name, (_ADDED.sub("", name),), op, CONVERSIONS.get(op, "compute"), precision, ms)
        )
    return layers


def _precision(types: Sequence[dict[str, Any]]) -> str:
    kinds = [_TYPES.get(name, name) for one in types for name in one]
    return kinds[0] if kinds else "-"
