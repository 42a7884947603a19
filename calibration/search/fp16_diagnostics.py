"""Which node of a graph does not bear float16: it overflows, or its values vary by less than a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnxruntime as ort

from calibration.inputs.graph_inputs import FeedDict, Window, open_session
from calibration.quantization.fp16_emulation import FP16_MAX, UNROUNDED_SUFFIX, fp16_tensors
from edge.release.quantization import TensorRanges


def describe_weakest_node(
    model: onnx.ModelProto,
    feeder: Callable[[ort.InferenceSession, Window], FeedDict],
    windows: Iterable[Window],
    disable_qdq_fusion: bool = False,
) -> str:
    """Say which node of a graph in float16 overflows first on the windows, or else which loses the most
    by being rounded: noise over variance of what it gives.

    Raises:
        InputError: ONNX Runtime refuses the graph.
    """
    made = _made(model)
    if not made:
        return "no node is in float16"
    names = [f"{name}{UNROUNDED_SUFFIX}" for name in made]
    session = open_session(model, disable_qdq_fusion=disable_qdq_fusion, outputs=names)
    beyond: dict[str, float] = {}
    lost = dict.fromkeys(made, 0.0)
    for window in windows:
        values = session.run(names, feeder(session, window))
        for name, value in zip(made, values, strict=True):
            peak = float(np.abs(value).max(initial=0.0))
            if not peak <= FP16_MAX:
                beyond[name] = max(peak, beyond.get(name, 0.0))
            elif (spread := float(value.var(dtype=np.float64))) > 0:
                noise = float(((value - value.astype(np.float16)) ** 2).mean(dtype=np.float64))
                lost[name] = max(lost[name], noise / spread)
    first = next((name for name in made if name in beyond), None)
    if first is not None:
        return _overflow(made[first], beyond[first])
    most = max(lost, key=lambda name: lost[name], default=None)
    if most is None:
        return "no node is in float16"
    share = math.sqrt(lost[most])
    return f"{_named(made[most])} loses most: rounding it is {share:.2g} of its standard deviation"


def describe_overflow(model: onnx.ModelProto, extremes: TensorRanges) -> str | None:
    """Say which node of a graph in float16 is the first to overflow, if any, by what each tensor reached
    in float32.
    """
    for name, node in _made(model).items():
        peak = max(map(abs, extremes.get(name, (0.0, 0.0))))
        if peak > FP16_MAX:
            return _overflow(node, peak)
    return None


def _made(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the float16 tensors that nodes make, in order, each with its node."""
    halves = fp16_tensors(model)
    return {name: node for node in model.graph.node for name in node.output if name in halves}


def _overflow(node: onnx.NodeProto, peak: float) -> str:
    reached = f"reaches {peak:.3g}" if np.isfinite(peak) else "gives no numbers"
    return f"{_named(node)} {reached}, and float16 ends at {FP16_MAX:.0f}"


def _named(node: onnx.NodeProto) -> str:
    return f"node {node.name or node.output[0]} ({node.op_type})"
