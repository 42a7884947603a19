"""What an engine's own profiler says of a layer, whichever engine it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTime:
    """A layer as it was run, after the engine's fusions.

    `nodes`: the ONNX nodes it is made of, as far as the engine tells; `op`: its kind in the engine's words;
    `kind`: compute, or what it costs where precisions and layouts meet: cast, quantise, dequantise, reformat;
    `ms`: the median of a call.
    """

    name: str
    nodes: tuple[str, ...]
    op: str
    kind: str
    precision: str
    ms: float
