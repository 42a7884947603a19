"""Types of a graph's activations, which ONNX Runtime finds by running it once without optimizations."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge.core.errors import InputError
from edge.inference.onnxruntime.session import create_session, describe_error
from edge.release.onnx_graph import OnnxGraph, Shape, TensorType

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def infer_tensor_types(path: Path, graph: OnnxGraph, shapes: Mapping[str, Shape]) -> dict[str, TensorType]:
    """Return the type of each activation that depends on the inputs, by name.

    Args:
        path: The ONNX file.
        graph: Its graph.
        shapes: Shapes of the inputs whose size the file leaves open.

    Raises:
        InputError: ONNX Runtime cannot run the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            inputs, events = _run_once(path, shapes, str(Path(folder) / "trace"))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise InputError(
                f"ONNX Runtime {ort.__version__} cannot run {path} ({describe_error(error)}): export it again"
            ) from None
    types = dict(inputs)
    by_name = {
        str(event["name"]).removesuffix("_kernel_time"): event["args"]["output_type_shape"]
        for event in events
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time")
    }
    for index, node in enumerate(graph.nodes):
        # ONNX Runtime calls a node without a name by its operator and its number.
        outputs = by_name.get(node.name, by_name.get(f"{node.op}_{index}", []))
        known = {**graph.weights, **types}
        is_half = any(known[name].dtype == "float16" for name in node.inputs if name in known)
        for name, output in zip(filter(None, node.outputs), outputs, strict=False):
            ((dtype, shape),) = output.items()
            # Without float16 kernels it computes in float32 between its own casts. The graph's type counts.
            if dtype == "float" and is_half:
                dtype = "float16"
            types[name] = TensorType(node.cast_to or dtype, tuple(shape))
        if node.op == "Cast" and node.outputs[0] not in types and node.inputs[0] in types:
            # Together with one of those casts it had no effect, and was removed.
            types[node.outputs[0]] = TensorType(node.cast_to, types[node.inputs[0]].shape)
    return types


def _run_once(
    path: Path, shapes: Mapping[str, Shape], trace: str
) -> tuple[dict[str, TensorType], list[dict[str, Any]]]:
    """Run a graph on zeros and return the types of its inputs, and the events of its profile."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = trace
    session = create_session(path, options)
    types, feed = {}, {}
    for tensor in session.get_inputs():
        shape = shapes.get(tensor.name) or tuple(d if isinstance(d, int) else 1 for d in tensor.shape)
        types[tensor.name] = TensorType(tensor.type[len("tensor(") : -1], shape)
        feed[tensor.name] = np.zeros(shape, _NUMPY_TYPES[tensor.type])
    session.run(None, feed)
    return types, json.loads(Path(session.end_profiling()).read_text())
