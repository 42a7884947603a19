"""Time of each layer from the engine's own profiler, with its precision and its part of the student."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.core.protobuf_wire import iter_fields
from edge.inference.interface.layer_times import LayerTime
from edge.profiler.measurement.candidate import Candidate, InputFeed

CALLS = 50
WARM_UP_CALLS = 10
SLOWEST_COUNT = 10
FUSED_OPERATORS = ("Relu", "Clip")
"""Activations that engines compute together with the layer before them."""
_PART = re.compile(r"^(?:network\.)?([A-Za-z_]\w*)\..*weight")


@dataclass(frozen=True)
class LayerProfile:
    """A layer's time in its part of the student.

    Attributes:
        name: Name of the layer in the engine.
        op: Operator in the engine's words.
        part: Part of the student, such as "trunk" or "decoder".
        kind: Kind of work, as `LayerTime` has it.
        precision: Precision that it computes in.
        ms: Median of a call.
        share: Share of the time of all layers.
    """

    name: str
    op: str
    part: str
    kind: str
    precision: str
    ms: float
    share: float


def profile_layers(candidate: Candidate, feeds: Sequence[InputFeed]) -> list[LayerProfile]:
    """Return the layers of a candidate in execution order; none where its engine has no profiler here."""
    if candidate.graph is None or candidate.open_profiled is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        runner = candidate.open_profiled(Path(folder) / "layers")
        try:
            for index in range(WARM_UP_CALLS + CALLS):
                runner.infer(feeds[index % len(feeds)])
            times = runner.layer_times(WARM_UP_CALLS)
        finally:
            runner.close()
    return assign_parts(times, read_parts(candidate.graph), read_layer_names(candidate.graph))


def assign_parts(
    times: Sequence[LayerTime], parts: dict[str, str], names: Mapping[str, str] = MappingProxyType({})
) -> list[LayerProfile]:
    """Return the layers with their parts; a layer that the engine inserted gets the previous one's part.

    Args:
        times: Layers in execution order.
        parts: Parts as `read_parts` returns them.
        names: Names as `read_layer_names` returns them; a layer that has none keeps the engine's name.
    """
    used: set[str] = set()
    total_ms = sum(layer.ms for layer in times) or 1.0
    layers, part = [], "input"
    for time in times:
        part = next((parts[node] for node in time.nodes if node in parts), part)
        layers.append(
            LayerProfile(
                _layer_name(time, names, used),
                time.op,
                part,
                time.kind,
                time.precision,
                time.ms,
                time.ms / total_ms,
            )
        )
    return layers


def _layer_name(time: LayerTime, names: Mapping[str, str], used: set[str]) -> str:
    """Return the graph's name of a layer, or the engine's where it has none or an earlier layer has it."""
    known = [names[node] for node in time.nodes if node in names] if time.kind == "compute" else []
    name = known[0] if known and known[0] not in used else time.name
    used.add(name)
    return name


def summarize_layers(layers: Sequence[LayerProfile]) -> dict[str, Any]:
    """Return the milliseconds per part and per kind, the slowest layers, and all conversions by name."""
    parts_ms: dict[str, float] = {}
    kinds_ms: dict[str, float] = {}
    for layer in layers:
        parts_ms[layer.part] = parts_ms.get(layer.part, 0.0) + layer.ms
        kinds_ms[layer.kind] = kinds_ms.get(layer.kind, 0.0) + layer.ms
    slowest_first = sorted(layers, key=lambda layer: -layer.ms)
    return {
        "parts_ms": parts_ms,
        "kinds_ms": kinds_ms,
        "slowest": [layer.name for layer in slowest_first[:SLOWEST_COUNT]],
        "conversions": [layer.name for layer in slowest_first if layer.kind != "compute"],
    }


def read_parts(graph: Path) -> dict[str, str]:
    """Return the student's part of each node, by the node's name and by the names of its outputs.

    A node with weights belongs to the part that their name begins with (`network.trunk.1.0.weight`: trunk).
    A node without weights belongs to the part of the node that produces its input. The field numbers are
    those of onnx.proto: ModelProto.graph (7), GraphProto.node (1), NodeProto.input (1), output (2), name (3).
    """
    parts: dict[str, str] = {}
    for number, message in iter_fields(memoryview(graph.read_bytes())):
        if number != 7 or not isinstance(message, memoryview):
            continue
        for field, node in iter_fields(message):
            if field == 1 and isinstance(node, memoryview):
                _add_node(node, parts)
    return parts


def read_layer_names(graph: Path) -> dict[str, str]:
    """Return the name of each layer, by the name of its node and by those of its outputs.

    The names are those of `aerogaze sensitivity`: the graph's nodes. Engines fuse an activation into the
    layer before it and call the result by the activation's output. It has the name of that layer, too.
    """
    names: dict[str, str] = {}
    for number, message in iter_fields(memoryview(graph.read_bytes())):
        if number != 7 or not isinstance(message, memoryview):
            continue
        for field, node in iter_fields(message):
            if field == 1 and isinstance(node, memoryview):
                inputs, outputs, name, op = _node_texts(node)
                names[name] = name
                is_fused = op in FUSED_OPERATORS and inputs[0] in names
                names.update(dict.fromkeys(outputs, names[inputs[0]] if is_fused else name))
    return names


def _node_texts(node: memoryview) -> tuple[list[str], list[str], str, str]:
    """Return the inputs, the outputs, the name and the operator of a node."""
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
    for number, value in iter_fields(node):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(bytes(value).decode(errors="replace"))
    return texts[1], texts[2], texts[3][-1], texts[4][-1]


def _add_node(node: memoryview, parts: dict[str, str]) -> None:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: []}
    for number, value in iter_fields(node):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(bytes(value).decode(errors="replace"))
    weight_parts = (match[1] for match in map(_PART.match, texts[1]) if match)
    producer_parts = (parts[name] for name in texts[1] if name in parts)
    part = next(weight_parts, None) or next(producer_parts, None)
    if part:
        parts.update(dict.fromkeys((*texts[2], *texts[3]), part))
