"""Opening of graphs with ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as MissingKernelError

STOP_SPINNING = "session.force_spinning_stop", "1"
"""Session option: threads stop spinning when a run ends. By default they spin for milliseconds longer, which
slows down the rest of the pipeline and other sessions, and drains the battery."""


def create_session(model: Path | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a graph on the CPU.

    If ONNX Runtime has no kernel for a graph after all its optimizations, the graph is opened with fewer.

    Args:
        model: The ONNX file, or its content.
        options: Options of the session. The level of optimization may be lowered.

    Raises:
        Exception: ONNX Runtime refuses the graph. Its exceptions have no common base class; see
            `describe_error`.
    """
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MissingKernelError:
        if options.graph_optimization_level != ort.GraphOptimizationLevel.ORT_ENABLE_ALL:
            raise
        # The last optimizations change the layout of tensors. Version 1.31 does so on Arm in fp16, also for
        # average pooling, for which it then has no kernel.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def describe_error(error: Exception) -> str:
    """Return the message of an error of ONNX Runtime in one line. The last of its lines may be a bracket."""
    return " ".join(str(error).split())
