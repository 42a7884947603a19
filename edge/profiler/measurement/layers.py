"""Time of each layer, by the engine's own profiler, with its precision and the student's part it is of."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.core.protobuf_wire import fields
from edge.inference.interface.layer_times import LayerTime
from edge.profiler.measurement.candidate import Candidate, InputFeed

CALLS = 50
WARM = 10
SLOWEST = 10
_PART = re.compile(r"^(?:network\.)?([A-Za-z_]\w*)\..*weight")


@dataclass(frozen=True)
class LayerProfile:
    """A layer as `LayerTime` has it, the student's part that it is of, and its share of all layers' time."""

    name: str
    op: str
    part: str
    kind: str
    precision: str
    ms: float
    share: float


def layers_of(contender: Candidate, feeds: Sequence[InputFeed]) -> list[LayerProfile]:
    """Return the layers of a contender in the order they run in; none where no engine of ours runs it."""
    if contender.graph is None or contender.open_profiled is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        runner = contender.open_profiled(Path(folder) / "layers")
        try:
            for index in range(WARM + CALLS):
                runner.infer(feeds[index % len(feeds)])
            times = runner.layer_times(WARM)
        finally:
            runner.close()
    return in_parts(times, parts_of(contender.graph))


def in_parts(times: Sequence[LayerTime], parts: dict[str, str]) -> list[LayerProfile]:
    """Return the layers with the student's parts; what an engine put in belongs to what ran before."""
    total = sum(layer.ms for layer in times) or 1.0
    layers, part = [], "input"
    for each in times:
        part = next((parts[node] for node in each.nodes if node in parts), part)
        layers.append(LayerProfile(each.name, each.op, part, each.kind, each.precision, each.ms, each.ms / total))
    return layers


def summarise(layers: Sequence[LayerProfile]) -> dict[str, Any]:
    """Return the milliseconds of each part and of each kind, the slowest ten, and all conversions by name."""
    parts: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for layer in layers:
        parts[layer.part] = parts.get(layer.part, 0.0) + layer.ms
        kinds[layer.kind] = kinds.get(layer.kind, 0.0) + layer.ms
    ordered = sorted(layers, key=lambda layer: -layer.ms)
    return {
        "parts_ms": parts,
        "kinds_ms": kinds,
        "slowest": [layer.name for layer in ordered[:SLOWEST]],
        "conversions": [layer.name for layer in ordered if layer.kind != "compute"],
    }


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
