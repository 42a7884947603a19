"""Finds the node of a float16 graph that overflows or loses the most precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx
import onnxruntime as ort

from calibration.inputs.graph_inputs import FeedDict, Window, open_session
from calibration.quantization.fp16_emulation import FP16_MAX, fp16_tensors, unrounded_names
from edge.release.quantization import TensorRanges


def describe_weakest_node(
    model: onnx.ModelProto,
    feeder: Callable[[ort.InferenceSession, Window], FeedDict],
    windows: Iterable[Window],
    disable_qdq_fusion: bool = False,
) -> str:
    """Return a sentence about the weakest node of a float16 graph.

    The weakest node is the first one that overflows on the windows. If none does, it is the node whose
    output loses most by rounding: rounding noise divided by the variance of the output.

    Args:
        model: The float16 graph.
        feeder: Maps a window to the inputs of the graph.
        windows: The windows to run the graph on.
        disable_qdq_fusion: Run Q/DQ nodes as separate operators, see `open_session`.

    Raises:
        InputError: If ONNX Runtime refuses the graph.
    """
    producers = _fp16_producers(model)
    if not producers:
        return "no node is in float16"
    exact = unrounded_names(model)
    names = [exact[name] for name in producers]
    session = open_session(model, disable_qdq_fusion=disable_qdq_fusion, outputs=names)
    overflow_peaks: dict[str, float] = {}
    noise_ratios = dict.fromkeys(producers, 0.0)
    for window in windows:
        values = session.run(names, feeder(session, window))
        for name, value in zip(producers, values, strict=True):
            peak = float(np.abs(value).max(initial=0.0))
            if not peak <= FP16_MAX:  # also true for NaN
                overflow_peaks[name] = max(peak, overflow_peaks.get(name, 0.0))
            elif (variance := float(value.var(dtype=np.float64))) > 0:
                noise = float(((value - value.astype(np.float16)) ** 2).mean(dtype=np.float64))
                noise_ratios[name] = max(noise_ratios[name], noise / variance)
    first = next((name for name in producers if name in overflow_peaks), None)
    if first is not None:
        return _format_overflow(producers[first], overflow_peaks[first])
    weakest = max(noise_ratios, key=lambda name: noise_ratios[name])
    ratio = math.sqrt(noise_ratios[weakest])
    return (
        f"{_format_node(producers[weakest])} loses most: rounding it is {ratio:.2g} of its standard deviation"
    )


def describe_overflow(model: onnx.ModelProto, extremes: TensorRanges) -> str | None:
    """Return a sentence about the first node of a float16 graph that overflows; None if none does.

    Args:
        model: The float16 graph.
        extremes: Lowest and highest value of each tensor, measured in float32.
    """
    for name, node in _fp16_producers(model).items():
        peak = max(map(abs, extremes.get(name, (0.0, 0.0))))
        if peak > FP16_MAX:
            return _format_overflow(node, peak)
    return None


def _fp16_producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the float16 outputs of nodes in graph order, each with the node that produces it."""
    halves = fp16_tensors(model)
    return {name: node for node in model.graph.node for name in node.output if name in halves}


def _format_overflow(node: onnx.NodeProto, peak: float) -> str:
    reached = f"reaches {peak:.3g}" if np.isfinite(peak) else "gives values that are not finite"
    return f"{_format_node(node)} {reached}, and the maximum of float16 is {FP16_MAX:.0f}"


def _format_node(node: onnx.NodeProto) -> str:
    return f"node {node.name or node.output[0]} ({node.op_type})"
