"""The real runner, its streams, rings, CUDA graphs, zero copy and threads, with a CUDA kernel for an engine.

It needs no TensorRT, and every bit must be as numpy computes it. Without a GPU, the same tests run on the
simulated GPU, and in `test_standin.py` on a stand-in for the driver.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import BACKENDS
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from tests.gpu.kernel_engine import (
    SHAPE,
    KernelEngine,
    SimulatedKernelEngine,
    compile_kernel,
    expected_maps,
    signature,
)
from tests.support.cuda_backends import open_cuda_or_skip
from tests.support.simulated_gpu import SimulatedCuda

FRAMES = list(np.random.default_rng(0).random((60, *SHAPE), np.float32))
OpenRunner = Callable[..., TensorRTRunner]


@pytest.fixture(params=["simulated", *BACKENDS])
def open_runner(request: pytest.FixtureRequest) -> Iterator[OpenRunner]:
    """Return a function that opens runners of the kernel, on the simulated GPU and with each backend."""
    runners: list[TensorRTRunner] = []

    def open_(lag_s: float = 0.1, **options: Any) -> TensorRTRunner:
        runners.append(_open_runner(request.param, lag_s, options))
        return runners[-1]

    yield open_
    for runner in runners:
        runner.close()


def _open_runner(backend: str, lag_s: float, options: dict[str, Any]) -> TensorRTRunner:
    if backend == "simulated":
        simulated = SimulatedCuda(random.Random(1))  # noqa: S311 - a schedule
        engine: Any = SimulatedKernelEngine(simulated)
        return TensorRTRunner(engine, simulated, signature(lag_s), RunnerOptions(**options))
    cuda = open_cuda_or_skip(backend)
    try:
        gpu = detect_gpu()
        assert gpu is not None
        engine = KernelEngine(compile_kernel(gpu.compute_capability))
    except BaseException:
        cuda.close()
        raise
    return TensorRTRunner(engine, cuda, signature(lag_s), RunnerOptions(**options))


def run_pipelined(runner: TensorRTRunner, frames: Sequence[np.ndarray], fps: float) -> np.ndarray:
    """Return the maps with as many frames in flight as possible; a frame is spoilt once it is submitted."""
    runner.reset(fps)
    maps: list[np.ndarray] = []
    for index, frame in enumerate(frames):
        submitted = frame.copy()
        runner.submit({"frame": submitted})
        submitted[...] = np.nan
        if index >= runner.depth - 1:
            maps.append(runner.collect()["saliency"].copy())
    while len(maps) < len(frames):
        maps.append(runner.collect()["saliency"].copy())
    return np.stack(maps)


@pytest.mark.parametrize("lag_s", [0.1, 0.3])
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("zero_copy", [True, False])
def test_maps_are_those_of_numpy_bit_for_bit(
    open_runner: OpenRunner, zero_copy: bool, cuda_graphs: bool, lag_s: float
) -> None:
    runner = open_runner(lag_s, zero_copy=zero_copy, cuda_graphs=cuda_graphs)
    assert ("zero copy" in runner.description, "CUDA graph" in runner.description) == (zero_copy, cuda_graphs)
    for fps in (10, 30, 10):
        np.testing.assert_array_equal(run_pipelined(runner, FRAMES, fps), expected_maps(FRAMES, lag_s, fps))


def test_thread_that_sleeps_while_it_waits_gets_the_same_maps(open_runner: OpenRunner) -> None:
    runner = open_runner(blocking_wait=True)
    assert runner.description.endswith("blocking waits")
    np.testing.assert_array_equal(run_pipelined(runner, FRAMES, 10), expected_maps(FRAMES, 0.1, 10))


def test_runner_is_used_and_closed_by_other_threads(open_runner: OpenRunner) -> None:
    runner, maps = open_runner(), list[np.ndarray]()
    for work in (lambda: maps.append(run_pipelined(runner, FRAMES, 10)), runner.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(maps[0], expected_maps(FRAMES, 0.1, 10))


def test_two_runners_take_turns(open_runner: OpenRunner) -> None:
    runners = open_runner(zero_copy=True), open_runner(zero_copy=False)
    for runner in runners:
        runner.reset(10)
    for frame, expected in zip(FRAMES, expected_maps(FRAMES, 0.1, 10), strict=True):
        for runner in runners:
            np.testing.assert_array_equal(runner.infer({"frame": frame})["saliency"], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_context_is_released_and_retained_again(backend: str) -> None:
    for _ in range(5):
        runner = _open_runner(backend, 0.1, {})
        maps = run_pipelined(runner, FRAMES[:8], 10)
        runner.close()
        np.testing.assert_array_equal(maps, expected_maps(FRAMES[:8], 0.1, 10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sleeping_thread_leaves_its_core_idle(backend: str) -> None:
    """Print how long a frame takes and keeps the CPU busy, for a thread that asks and for one that sleeps."""
    for blocking_wait in (False, True):
        runner = _open_runner(backend, 0.1, {"blocking_wait": blocking_wait})
        for frame in FRAMES[:50]:
            runner.infer({"frame": frame})
        start_s, cpu_start_s = time.perf_counter(), time.thread_time()
        for frame in FRAMES:
            runner.infer({"frame": frame})
        seconds, cpu_s = time.perf_counter() - start_s, time.thread_time() - cpu_start_s
        runner.close()
        frame_ms = 1e3 / len(FRAMES)
        print(f"blocking {blocking_wait}: {seconds * frame_ms:.3f} ms, of CPU {cpu_s * frame_ms:.3f} ms")
        assert cpu_s <= seconds * 1.5


LOSE_GPU = """
import sys
import numpy as np
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import CudaError, open_cuda
from edge.inference.tensorrt.runner import RunnerOptions, TensorRTRunner
from tests.gpu.kernel_engine import SHAPE, KernelEngine, compile_kernel, signature
cuda = open_cuda(sys.argv[1])
engine = KernelEngine(compile_kernel(detect_gpu().compute_capability), writes_elsewhere=True)
try:
    runner = TensorRTRunner(engine, cuda, signature(0.1), RunnerOptions(cuda_graphs=False))
    runner.infer({"frame": np.zeros(SHAPE, np.float32)})
except CudaError as error:
    print(error.name, error.lost)
runner.close()
print("closed")
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_kernel_that_writes_elsewhere_loses_the_gpu(backend: str) -> None:
    """In a process of its own, which then has no GPU any more."""
    _open_runner(backend, 0.1, {}).close()  # skips
    words = [sys.executable, "-c", LOSE_GPU, backend]
    process = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert process.stdout.splitlines() == ["CUDA_ERROR_ILLEGAL_ADDRESS True", "closed"], process.stderr


@pytest.mark.parametrize("compute_capability", ["8.7", "8.9", "9.0", "11.0", "12.0"])
def test_kernel_compiles_for_boards_and_cards_without_a_gpu(compute_capability: str) -> None:
    assert compile_kernel(compute_capability)[:4] == b"\x7fELF"
