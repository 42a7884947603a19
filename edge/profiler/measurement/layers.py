"""Time and work of each layer: from the engine's own profiler, and from the graph."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.errors import InputError
from edge.inference.interface.layer_times import LayerTime
from edge.profiler.measurement.candidate import Candidate, InputFeed
from edge.release.graph_work import ACTIVATIONS, Work, count_work, find_layers
from edge.release.onnx_graph import OnnxGraph, read_onnx_graph

if TYPE_CHECKING:  # imports ONNX Runtime, which the help does not need
    from edge.profiler.roofline.machine_peak import MachinePeak

CALLS = 50
WARM_UP_CALLS = 10
SLOWEST_COUNT = 10
_PART = re.compile(r"^(?:network\.)?([A-Za-z_]\w*)\..*weight")


@dataclass(frozen=True)
class LayerProfile:
    """A layer's time in its part of the student, and its work.

    Attributes:
        name: Name of the layer in the engine.
        op: Operator in the engine's words.
        part: Part of the student, such as "trunk" or "decoder".
        kind: Kind of work, as `LayerTime` has it.
        precision: Precision that it computes in.
        ms: Median of a call.
        share: Share of the time of all layers.
        macs: Multiply-accumulates of the graph's nodes that it computes.
        moved_bytes: Bytes that it reads and writes: by the graph, or by the engine if it inserted the layer;
            None if neither says it.
        peak_share: Share of the machine's practical peak that it reaches; None if no peak is known.
        bound: What limits it at the peak: "arithmetic" or "memory"; "" if unknown.
    """

    name: str
    op: str
    part: str
    kind: str
    precision: str
    ms: float
    share: float
    macs: int = 0
    moved_bytes: int | None = None
    peak_share: float | None = None
    bound: str = ""


def profile_layers(
    candidate: Candidate, feeds: Sequence[InputFeed], peak: MachinePeak | str
) -> dict[str, Any]:
    """Return the layers of a candidate in execution order, their sums, and the work of its graph.

    Args:
        candidate: The candidate.
        feeds: Inputs of its calls.
        peak: Peak that its layers are compared with, or why there is none.

    Returns:
        The object of the document; empty where the engine has no profiler here.
    """
    if candidate.graph is None or candidate.open_profiled is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        runner = candidate.open_profiled(Path(folder) / "layers")
        try:
            for index in range(WARM_UP_CALLS + CALLS):
                runner.infer(feeds[index % len(feeds)])
            times = runner.layer_times(WARM_UP_CALLS)
        finally:
            runner.close()
    from edge.inference.onnxruntime.tensor_types import infer_tensor_types

    graph = read_onnx_graph(candidate.graph)
    nodes = assign_nodes(times, graph)
    works, total = {}, None
    try:
        shapes = {name: value.shape for name, value in feeds[0].items()}
        types = infer_tensor_types(candidate.graph, graph, shapes)
        works = count_work(graph, types, nodes)
        total = sum(count_work(graph, types, find_layers(graph)).values(), Work())
    except InputError as error:
        peak = f"work not counted: {error}"
    measured_peak = None if isinstance(peak, str) else peak
    layers = describe_layers(times, nodes, works, read_parts(graph), measured_peak)
    return {
        "layers": [asdict(layer) for layer in layers],
        "work": asdict(total) if total else None,
        "unassigned_macs": total.macs - sum(layer.macs for layer in layers) if total else 0,
        "peak": asdict(measured_peak) if measured_peak else None,
        "peak_why": peak if isinstance(peak, str) else "",
        **summarize_layers(layers),
    }


def assign_nodes(times: Sequence[LayerTime], graph: OnnxGraph) -> dict[str, list[str]]:
    """Return the names of the nodes that each layer names, by the engine's name of the layer.

    Engines fuse an activation into the layer before it and call the result by the activation's output. It is
    that layer, too. A node that an earlier layer has is not given to a second one.
    """
    names: dict[str, str] = {}
    for node in graph.nodes:
        names[node.name] = node.name
        is_fused = node.op in ACTIVATIONS and node.inputs[0] in names
        names.update(dict.fromkeys(node.outputs, names[node.inputs[0]] if is_fused else node.name))
    taken: set[str] = set()
    nodes: dict[str, list[str]] = {}
    for time in times:
        known = dict.fromkeys(names[name] for name in time.nodes if name in names)
        nodes[time.name] = [name for name in known if name not in taken]
        taken.update(nodes[time.name])
    return nodes


def describe_layers(
    times: Sequence[LayerTime],
    nodes: Mapping[str, Sequence[str]],
    works: Mapping[str, Work],
    parts: Mapping[str, str],
    peak: MachinePeak | None,
) -> list[LayerProfile]:
    """Return the layers with their parts and work; one that the engine inserted gets the previous one's part.

    Layers that compute have the graph's names, which `aerogaze sensitivity` shows, too. Others keep the
    engine's.

    Args:
        times: Layers in execution order.
        nodes: Nodes of each layer as `assign_nodes` returns them.
        works: Work of each layer, by the engine's name; empty if it could not be counted.
        parts: Parts as `read_parts` returns them.
        peak: Peak that the layers are compared with, if there is one.
    """
    total_ms = sum(time.ms for time in times) or 1.0
    layers, part = [], "input"
    for time in times:
        members = nodes[time.name]
        part = next((parts[node] for node in members if node in parts), part)
        work = works.get(time.name) if members else None
        moved_bytes = work.moved_bytes if work else None if members else time.moved_bytes
        peak_share, bound = (
            peak.compare(work.macs if work else 0, moved_bytes, time.precision, time.ms)
            if peak is not None and moved_bytes is not None
            else (None, "")
        )
        layers.append(
            LayerProfile(
                name=members[0] if members and time.kind == "compute" else time.name,
                op=time.op,
                part=part,
                kind=time.kind,
                precision=time.precision,
                ms=time.ms,
                share=time.ms / total_ms,
                macs=work.macs if work else 0,
                moved_bytes=moved_bytes,
                peak_share=peak_share,
                bound=bound,
            )
        )
    return layers


def summarize_layers(layers: Sequence[LayerProfile]) -> dict[str, Any]:
    """Return the milliseconds per part, kind and bound, the slowest layers, and all conversions by name."""
    parts_ms: dict[str, float] = {}
    kinds_ms: dict[str, float] = {}
    bounds_ms: dict[str, float] = {}
    for layer in layers:
        for sums, group in (
            (parts_ms, layer.part),
            (kinds_ms, layer.kind),
            (bounds_ms, layer.bound or "unknown"),
        ):
            sums[group] = sums.get(group, 0.0) + layer.ms
    slowest_first = sorted(layers, key=lambda layer: -layer.ms)
    return {
        "parts_ms": parts_ms,
        "kinds_ms": kinds_ms,
        "bounds_ms": bounds_ms,
        "slowest": [layer.name for layer in slowest_first[:SLOWEST_COUNT]],
        "conversions": [layer.name for layer in slowest_first if layer.kind != "compute"],
    }


def read_parts(graph: OnnxGraph) -> dict[str, str]:
    """Return the student's part of each node.

    A node with weights belongs to the part that their name begins with (`network.trunk.1.0.weight`: trunk).
    A node without weights belongs to the part of the node that produces its input.
    """
    parts: dict[str, str] = {}
    tensor_parts: dict[str, str] = {}
    for node in graph.nodes:
        weight_parts = (match[1] for match in map(_PART.match, node.inputs) if match)
        producer_parts = (tensor_parts[name] for name in node.inputs if name in tensor_parts)
        part = next(weight_parts, None) or next(producer_parts, None)
        if part:
            parts[node.name] = part
            tensor_parts.update(dict.fromkeys(node.outputs, part))
    return parts
