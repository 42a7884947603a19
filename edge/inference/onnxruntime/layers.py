"""Layer times from ONNX Runtime's profile."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
"""Operators that only convert data, with the kind that `LayerTime` reports."""
_TYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8", "bfloat16": "bf16"}
_SIZES = ("activation_size", "parameter_size", "output_size")
_RUNTIME_AFFIX = re.compile(r"_kernel_time$|_token_\d+|_nchwc|_nhwc|_quant$|^InsertedPrecisionFreeCast_")
"""Prefixes and suffixes that the runtime adds to the names of nodes that it fuses or moves."""


def read_events(
    events: Sequence[dict[str, Any]], warm: int, summarize: Callable[[Sequence[float]], float] = np.median
) -> list[LayerTime]:
    """Return the layers in execution order.

    Args:
        events: The profile; only events of category Node are used.
        warm: Number of runs of each layer to leave out at the start.
        summarize: Returns the time of a layer from those of its other runs.
    """
    times: dict[str, list[float]] = {}
    first_events: dict[str, dict[str, Any]] = {}
    nodes = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        name = str(event["name"]).removesuffix("_kernel_time")
        first_events.setdefault(name, event)
        times.setdefault(name, []).append(event["dur"] / 1e3)
    layers = []
    for name, event in first_events.items():
        op = str(event["args"].get("op_name", ""))
        ms = float(summarize(times[name][min(warm, len(times[name]) - 1) :]))
        layers.append(
            LayerTime(
                name,
                (_RUNTIME_AFFIX.sub("", name),),
                op,
                CONVERSIONS.get(op, "compute"),
                _precision(event["args"].get("output_type_shape", [])),
                ms,
                sum(int(event["args"].get(key, 0)) for key in _SIZES),
            )
        )
    return layers


def _precision(outputs: Sequence[dict[str, Any]]) -> str:
    """Return the precision of the first output; each output maps its data type to its shape."""
    precisions = [_TYPES.get(name, name) for output in outputs for name in output]
    return precisions[0] if precisions else "-"
