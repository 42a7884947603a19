"""Time of each layer, by ONNX Runtime's own profiler, with its precision and the student's part it is of."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.profiler.contender import Contender, Feed
from edge.protobuf import fields

CALLS = 50
WARM = 10
SLOWEST = 10
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
"""Layers that compute nothing: what precisions and layouts cost where they meet."""
_TYPES = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8", "bfloat16": "bf16"}
_ADDED = re.compile(r"_kernel_time$|_token_\d+|_nchwc|_nhwc|_quant$|^InsertedPrecisionFreeCast_")
"""What the runtime adds to the names of nodes that it fuses or moves."""
_PART = re.compile(r"^(?:network\.)?([A-Za-z_]\w*)\..*weight")


@dataclass(frozen=True)
class Layer:
    """A node as it was run, after the runtime's fusions. `kind`: compute, or a conversion of `CONVERSIONS`.

    `ms`: the median of a call; `share`: of the sum of all layers' medians.
    """

    name: str
    op: str
    part: str
    kind: str
    precision: str
    ms: float
    share: float


def layers_of(contender: Contender, feeds: Sequence[Feed]) -> list[Layer]:
    """Return the layers of a contender in the order they run in; none where ONNX Runtime does not run it."""
    if contender.graph is None or contender.open_profiled is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        runner = contender.open_profiled(Path(folder) / "layers")
        try:
            for index in range(WARM + CALLS):
                runner.infer(feeds[index % len(feeds)])
            events = json.loads(runner.end_profile().read_text())
        finally:
            runner.close()
    return read_events(events, parts_of(contender.graph))


def read_events(events: Sequence[dict[str, Any]], parts: dict[str, str]) -> list[Layer]:
    """Return the layers of ONNX Runtime's profile: its events of category Node."""
    times: dict[str, list[float]] = {}
    first: dict[str, dict[str, Any]] = {}
    nodes = [e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
    for event in sorted(nodes, key=lambda event: event["ts"]):
        name = str(event["name"]).removesuffix("_kernel_time")
        first.setdefault(name, event)
        times.setdefault(name, []).append(event["dur"] / 1e3)
    medians = {name: float(np.median(found[min(WARM, len(found) - 1) :])) for name, found in times.items()}
    total = sum(medians.values()) or 1.0
    layers, part = [], "input"
    for name, event in first.items():
        op = str(event["args"].get("op_name", ""))
        part = parts.get(_ADDED.sub("", name), part)  # what the runtime put in belongs to what was before
        kind = CONVERSIONS.get(op, "compute")
        precision = _precision(event["args"].get("output_type_shape", []))
        layers.append(Layer(name, op, part, kind, precision, medians[name], medians[name] / total))
    return layers


def summarise(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the milliseconds of each part and of each kind, and the slowest ten."""
    parts: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for layer in layers:
        parts[layer.part] = parts.get(layer.part, 0.0) + layer.ms
        kinds[layer.kind] = kinds.get(layer.kind, 0.0) + layer.ms
    slowest = sorted(layers, key=lambda layer: -layer.ms)[:SLOWEST]
    return {"parts_ms": parts, "kinds_ms": kinds, "slowest": [layer.name for layer in slowest]}


def parts_of(graph: Path) -> dict[str, str]:
    """Return the student's part that each node is of, by the node's name and those of its outputs.

    A node with weights is of the part that they are named after (`network.trunk.1.0.weight`: trunk); one
    without is of its producer's. Fields are those of onnx.proto: ModelProto.graph (7), GraphProto.node (1),
    NodeProto.input (1), output (2), name (3).
    """
    parts: dict[str, str] = {}
    for number, inner in fields(memoryview(graph.read_bytes())):
        if number != 7 or not isinstance(inner, memoryview):
            continue
        for kind, node in fields(inner):
            if kind == 1 and isinstance(node, memoryview):
                _add_part(node, parts)
    return parts


def _add_part(node: memoryview, parts: dict[str, str]) -> None:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for number, value in fields(node):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(bytes(value).decode(errors="replace"))
    named = (match[1] for match in map(_PART.match, texts[1]) if match)
    before = (parts[name] for name in texts[1] if name in parts)
    part = next(named, None) or next(before, None)
    if part:
        parts.update(dict.fromkeys((*texts[2], *texts[3]), part))


def _precision(types: Sequence[dict[str, Any]]) -> str:
    kinds = [_TYPES.get(name, name) for one in types for name in one]
    return kinds[0] if kinds else "-"
