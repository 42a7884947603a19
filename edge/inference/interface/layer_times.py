"""Execution time of one layer, as measured by an engine's own profiler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """One layer after the engine's fusions, with its execution time.

    Attributes:
        name: The engine's name of the layer.
        nodes: Names of the ONNX nodes that the layer was made from, as far as the engine reports them.
        op: The layer type, in the engine's terms.
        kind: "compute", or the cost of changing precision or memory layout: "cast", "quantise",
            "dequantise", "reformat".
        precision: Data type of the first output, "-" if unknown.
        ms: Median time of one call in milliseconds.
        moved_bytes: Bytes that it reads and writes, as far as the engine reports them.
    """

    name: str
    nodes: tuple[str, ...]
    op: str
    kind: str
    precision: str
    ms: float
    moved_bytes: int | None = None
