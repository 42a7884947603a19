"""The practical peak of this machine: one large 3x3 convolution in ONNX Runtime.

Its time is steadier than that of another library, so that a share of it says more about our graphs.

`aerogaze profile` has a peak of its own (`edge.profiler.roofline`), which is not used here for two reasons. A
comparison runs these benchmarks with the packages of older commits, which lack it. And the history of the
shares needs one yardstick. The rates differ by about 3 %, because the convolution of the profile is smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.search.latency_model import convolution_mmacs
from edge.inference.onnxruntime.session import STOP_SPINNING
from tests.bench.measurement.row import Contestant, timed

CHANNELS, SIDE, KERNEL = 128, 56, 3
PEAK_MACS = float(CHANNELS**2 * KERNEL**2 * SIDE**2)
"""Multiply-accumulates of the convolution: 462 million."""


def open_peak(
    model: ModelProto, precision: str, threads: int, clock: Callable[[], float] = time.perf_counter
) -> Contestant:
    """Return a contestant whose value is the time that a graph's convolutions take at the peak's rate."""
    macs = 1e6 * sum(convolution_mmacs(model).values())
    call = _open_convolution(precision, threads)
    return timed(call, work=PEAK_MACS / macs, comparable=False, clock=clock)


def _open_convolution(precision: str, threads: int) -> Callable[[], object]:
    """Return a call of the convolution in fp32 or int8; in int8 its input and output are 8-bit integers."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry(*STOP_SPINNING)
    model = make_convolution(precision).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0).integers(0, 256, (1, CHANNELS, SIDE, SIDE))
    feed = {"x": values.astype(np.uint8 if precision == "int8" else np.float32)}
    return lambda: session.run(None, feed)


def make_convolution(precision: str) -> ModelProto:
    """Return the graph, with Q/DQ nodes around the convolution in int8."""
    shape, is_int8 = (1, CHANNELS, SIDE, SIDE), precision == "int8"
    weights = np.random.default_rng(1).integers(-127, 128, (CHANNELS, CHANNELS, KERNEL, KERNEL))
    dtype = np.int8 if is_int8 else np.float32
    constants = {"weights": weights.astype(dtype)}
    pads = [KERNEL // 2] * 4
    nodes: list[NodeProto] = [helper.make_node("Conv", ["x", "weights"], ["y"], pads=pads)]
    if is_int8:
        constants |= {"scale": np.float32(0.01), "zero": np.uint8(128), "weight_zero": np.int8(0)}
        constants["out_scale"] = np.float32(10)
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["x_real"]),
            helper.make_node("DequantizeLinear", ["weights", "scale", "weight_zero"], ["weights_real"]),
            helper.make_node("Conv", ["x_real", "weights_real"], ["y_real"], pads=pads),
            helper.make_node("QuantizeLinear", ["y_real", "out_scale", "zero"], ["y"]),
        ]
    element = TensorProto.UINT8 if is_int8 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
