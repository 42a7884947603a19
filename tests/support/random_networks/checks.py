"""Checks of a random network: what ONNX Runtime runs is calibrated, and all its graphs compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.inputs.calibration_frames import CalibrationFrames
from calibration.inputs.graph_inputs import open_session
from calibration.inputs.onnx_import import ImportedGraph, import_graph
from calibration.search.accuracy import AccuracyBudget, AccuracyEvaluator
from calibration.search.latency_benchmark import LatencyTimer
from calibration.search.latency_model import ModelledLatency
from edge.release.release import TargetEngine
from export.graphs.int8_search import CalibrationOptions
from export.release.recalibrate import calibrate_graph
from tests.support.exporting import FakeTimer
from tests.support.random_networks.jumps import check_shares, force_jumps, jumping_outputs
from tests.support.random_networks.networks import random_frames
from tests.support.random_networks.sketch import HEIGHT, WIDTH

WINDOWS = random_frames(6)
FOOTAGE = CalibrationFrames(WINDOWS[:4], WINDOWS[4:], WINDOWS[:4, 0], "random")
MAX_ERROR = {"fp32": 1e-6, "fp16": 0.03, "int8": 0.5}
"""Greatest difference from fp32, as a fraction of the range of the map. Random weights lose more than trained
ones in int8; a wrong scale or a wrong node loses all."""


def _timer(
    engine: TargetEngine, model: onnx.ModelProto, evaluator: AccuracyEvaluator, threads: int
) -> LatencyTimer:
    return ModelledLatency(model) if engine == "tensorrt" else FakeTimer()


OPTIONS = CalibrationOptions("minmax", AccuracyBudget(), timer=_timer, max_trials=2)
"""Options without a limit for the loss, so that int8 is made of all layers."""


def run_as_it_is(model: onnx.ModelProto, frame: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the first output as ONNX Runtime gives it for a frame; None if it refuses the network."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wide = session.get_inputs()[0].type == "tensor(float)"
        value = frame if wide else frame.astype(np.float16)
        return np.asarray(session.run(None, {"x": value})[0], np.float32)
    except Exception:  # its exceptions share no base class
        return None


def check_calibration(model: onnx.ModelProto, folder: Path) -> tuple[str, ...] | None:
    """Calibrate a network, and compare its graphs with what ONNX Runtime makes of it.

    Returns:
        Warnings of the calibration; None if ONNX Runtime does not run the network.

    Raises:
        InputError: The network is refused.
    """
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    is_nhwc = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 3
    rgb = WINDOWS[-1, 0, :, :, ::-1] / 255
    frame = np.ascontiguousarray(rgb if is_nhwc else rgb.transpose(2, 0, 1), np.float32)[None]
    expected = run_as_it_is(model, frame)
    if expected is None:
        return None
    graph = import_graph(path, size=(WIDTH, HEIGHT))
    names = jumping_outputs(graph.model)
    actual, *jumps = _run(graph, graph.model, frame, names)
    values = dict(zip(names, jumps, strict=True))
    if values:
        expected = run_as_it_is(force_jumps(model, values)[0], frame)
        assert expected is not None
    has_half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer) or any(
        a.t.data_type == onnx.TensorProto.FLOAT16 for node in model.graph.node for a in node.attribute
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=(0.05 if has_half else 1e-3) * _span(expected))
    out = folder / "out"
    result = calibrate_graph(graph, "random", FOOTAGE, out, OPTIONS)
    files = {file.name for file in out.glob("*.onnx")}
    assert files >= {"fp32.onnx", "int8.onnxruntime.onnx", "int8.tensorrt.onnx"}, [
        int8.search.reason for int8 in result.int8
    ]
    for name in files:
        precision = name.partition(".")[0]
        forced, own = force_jumps(onnx.load(out / name), values)
        maps, *computed = _run(graph, forced, frame, own, "tensorrt" in name)
        error = float(np.abs(maps - actual).max()) / _span(actual)
        assert error <= MAX_ERROR[precision], f"{name} differs by {error:.3g}"
        if precision != "int8":
            check_shares(dict(zip(own, computed, strict=True)), values)
    return result.warnings


def _run(
    graph: ImportedGraph,
    model: onnx.ModelProto,
    frame: NDArray[np.float32],
    inner: Sequence[str] = (),
    disable_qdq_fusion: bool = False,
) -> list[NDArray[Any]]:
    """Return the map and inner tensors."""
    session = open_session(model, disable_qdq_fusion=disable_qdq_fusion, outputs=inner)
    feeder = graph.feeder
    return [np.asarray(value) for value in session.run([feeder.output, *inner], {feeder.inputs[0]: frame})]


def _span(values: NDArray[np.float32]) -> float:
    return max(float(np.ptp(values)), 1e-3)
