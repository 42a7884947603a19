"""Practical peak of this machine: a large convolution in ONNX Runtime, copies in memory and in the cache."""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edge.core.protobuf_wire import encode_field
from edge.inference.onnxruntime.session import STOP_SPINNING

CHANNELS, SIDE = 128, 32
"""Input and output channels, and height and width, of the 3 x 3 convolution.

It takes a few milliseconds, so that some of its calls are not interrupted on a busy machine, too.
"""
CONVOLUTION_MACS = CHANNELS * CHANNELS * 9 * SIDE * SIDE
CALLS, MAX_SECONDS = 100, 0.5
"""Calls of each convolution, of which the fastest counts, and the time after which no further one starts."""
CACHE_COPY_BYTES = 1 << 18
"""Size of the buffer that each thread copies in the cache: it and its copy fit in the L2 cache of a core."""
MEMORY_COPY_BYTES = 1 << 25
"""Size of the buffer that each thread copies in memory."""
COPY_ROUNDS = 20
_FLOAT, _UINT8, _INT8 = 1, 2, 3
_NUMBERS = {np.dtype("float32"): _FLOAT, np.dtype("uint8"): _UINT8, np.dtype("int8"): _INT8}


@dataclass(frozen=True)
class MachinePeak:
    """Practical peak of the processor with a number of threads.

    Attributes:
        threads: The threads.
        gmac_s: 1e9 multiply-accumulates per second by precision.
        cache_gb_s: 1e9 bytes per second, read and written, of copies within the cache.
        memory_gb_s: The same of a copy in memory.
    """

    threads: int
    gmac_s: Mapping[str, float]
    cache_gb_s: float
    memory_gb_s: float

    @property
    def cached_bytes(self) -> int:
        """Return the bytes that a layer moves at most if it is compared with copies within the cache."""
        return 2 * CACHE_COPY_BYTES * self.threads

    def bandwidth_gb_s(self, moved_bytes: float) -> float:
        """Return the bandwidth of a copy that moves as many bytes."""
        return self.cache_gb_s if moved_bytes <= self.cached_bytes else self.memory_gb_s

    def compare(self, macs: int, moved_bytes: int, precision: str, ms: float) -> tuple[float | None, str]:
        """Return the share of the peak that a layer reaches, and what limits it there.

        At the peak it takes the longer of two times: of its arithmetic at the peak's rate, and of its bytes
        at that of a copy (roofline model: Williams et al., CACM 2009).

        Args:
            macs: Multiply-accumulates.
            moved_bytes: Bytes read and written.
            precision: Precision that it computes in.
            ms: Milliseconds that it takes.

        Returns:
            The share, or None if nothing says how fast it could be; and "arithmetic", "memory" or "".
        """
        if (macs and precision not in self.gmac_s) or not (macs or moved_bytes) or not ms:
            return None, ""
        arithmetic_ms = macs / self.gmac_s[precision] / 1e6 if macs else 0.0
        memory_ms = moved_bytes / self.bandwidth_gb_s(moved_bytes) / 1e6
        bound = "arithmetic" if arithmetic_ms > memory_ms else "memory"
        return max(arithmetic_ms, memory_ms) / ms, bound


def measure_peak(threads: int) -> MachinePeak:
    """Measure the peak with a number of threads; takes about a second."""
    return MachinePeak(
        threads,
        {precision: _measure_convolution(precision, threads) for precision in ("fp32", "int8")},
        _measure_copy(CACHE_COPY_BYTES, threads, repeats=50),
        _measure_copy(MEMORY_COPY_BYTES, threads, repeats=1),
    )


def _measure_convolution(precision: str, threads: int) -> float:
    """Return the rate of the convolution in ONNX Runtime, 1e9 multiply-accumulates per second."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_profiling = True
    options.add_session_config_entry(*STOP_SPINNING)
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "peak")
        session = ort.InferenceSession(
            _convolution_model(precision), options, providers=["CPUExecutionProvider"]
        )
        x = np.full((1, CHANNELS, SIDE, SIDE), 3, np.uint8 if precision == "int8" else np.float32)
        end_s = time.monotonic() + MAX_SECONDS
        for call in range(CALLS):
            if call > 2 and time.monotonic() > end_s:
                break
            session.run(None, {"x": x})
        events = json.loads(Path(session.end_profiling()).read_text())
    # Layout changes around the convolution are not its work.
    fastest_us = min(
        event["dur"]
        for event in events
        if event.get("cat") == "Node" and "Conv" in event["args"].get("op_name", "") and event["dur"]
    )
    return float(CONVOLUTION_MACS / fastest_us / 1e3)


def _convolution_model(precision: str) -> bytes:
    """Return an ONNX model of one convolution with random weights, from x to y.

    The field numbers are those of onnx.proto, as in `edge.release.onnx_graph`.
    """
    weights = np.random.default_rng(0).integers(-20, 20, (CHANNELS, CHANNELS, 3, 3))
    if precision == "int8":
        op, names = "QLinearConv", ["x", "scale", "zero", "w", "scale", "w_zero", "y_scale", "zero"]
        dtype = _UINT8
        tensors = {
            "w": weights.astype(np.int8),
            "scale": np.float32(0.1),
            "y_scale": np.float32(50),
            "zero": np.uint8(0),
            "w_zero": np.int8(0),
        }
    else:
        op, names, dtype = "Conv", ["x", "w"], _FLOAT
        tensors = {"w": weights.astype(np.float32)}
    pads = encode_field(1, "pads") + b"".join(encode_field(8, 1) for _ in range(4)) + encode_field(20, 7)
    node = b"".join(encode_field(1, name) for name in names) + encode_field(2, "y")
    node += encode_field(4, op) + encode_field(5, pads)
    graph = encode_field(1, node) + encode_field(2, "peak")
    graph += b"".join(encode_field(5, _encode_tensor(name, value)) for name, value in tensors.items())
    graph += encode_field(11, _encode_value("x", dtype)) + encode_field(12, _encode_value("y", dtype))
    opset = encode_field(1, "") + encode_field(2, 13)
    return encode_field(1, 8) + encode_field(8, opset) + encode_field(7, graph)


def _encode_tensor(name: str, value: np.ndarray | np.generic) -> bytes:
    array = np.asarray(value)
    dims = b"".join(encode_field(1, size) for size in array.shape)
    return (
        dims
        + encode_field(2, _NUMBERS[array.dtype])
        + encode_field(8, name)
        + encode_field(9, array.tobytes())
    )


def _encode_value(name: str, dtype: int) -> bytes:
    dims = b"".join(encode_field(1, encode_field(1, size)) for size in (1, CHANNELS, SIDE, SIDE))
    tensor = encode_field(1, dtype) + encode_field(2, dims)
    return encode_field(1, name) + encode_field(2, encode_field(1, tensor))


def _measure_copy(size: int, threads: int, repeats: int) -> float:
    """Return the rate at which threads copy buffers of their own, 1e9 bytes read and written per second."""
    buffers = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]
    barrier = threading.Barrier(threads)
    best_s = [math.inf] * threads

    def copy(index: int) -> None:
        source, target = buffers[index]
        for _ in range(COPY_ROUNDS):
            barrier.wait()
            start_s = time.perf_counter()
            for _ in range(repeats):
                np.copyto(target, source)
            best_s[index] = min(best_s[index], time.perf_counter() - start_s)

    workers = [threading.Thread(target=copy, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(2 * size * repeats / seconds for seconds in best_s) / 1e9
