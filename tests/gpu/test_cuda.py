"""The ten operations of the CUDA layer: one suite for both backends, and for the stand-in."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import BACKENDS, Cuda, CudaError, Memory, open_cuda

MANY = (256, 1024)


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(MANY, np.float32)


def there_and_back(cuda: Cuda) -> None:
    """Copy numbers to the GPU, from one place there to another, and back."""
    given, taken = cuda.host(MANY, np.float32), cuda.host(MANY, np.float32)
    first, second = cuda.device(given.size_bytes), cuda.device(given.size_bytes)
    stream = cuda.stream()
    given.values[...] = numbers()
    for to, source in ((first, given), (second, first), (taken, second)):
        cuda.copy(to, source, stream)
    cuda.synchronise(stream)
    np.testing.assert_array_equal(taken.values, numbers())


def test_what_is_copied_comes_back(cuda: Cuda) -> None:
    there_and_back(cuda)


def test_memory_of_the_cpu_starts_as_zeros_in_its_shape(cuda: Cuda) -> None:
    memory = cuda.host((2, 3), np.float16)
    assert (memory.values.shape, memory.size_bytes) == ((2, 3), 12)
    assert memory.values.dtype == np.float16
    assert not memory.values.any()
    assert memory.address


def test_bytes_are_filled(cuda: Cuda) -> None:
    memory, seen, stream = cuda.device(1000), cuda.host((1000,), np.uint8), cuda.stream()
    cuda.fill(memory, 7, stream)
    cuda.copy(seen, memory, stream)
    cuda.synchronise(stream)
    assert (seen.values == 7).all()


def test_streams_are_joined_by_events(cuda: Cuda) -> None:
    """Copies in on one stream, out on another, through one buffer, again and again."""
    up, down = cuda.stream(), cuda.stream()
    given = [cuda.host(MANY, np.float32) for _ in range(4)]
    taken = [cuda.host(MANY, np.float32) for _ in range(4)]
    between = cuda.device(given[0].size_bytes)
    filled, emptied = cuda.event(), cuda.event()
    for seed, (one, other) in enumerate(zip(given, taken, strict=True)):
        one.values[...] = numbers(seed)
        cuda.wait(up, emptied)
        cuda.copy(between, one, up)
        cuda.record(filled, up)
        cuda.wait(down, filled)
        cuda.copy(other, between, down)
        cuda.record(emptied, down)
    cuda.synchronise(emptied)
    for seed, other in enumerate(taken):
        np.testing.assert_array_equal(other.values, numbers(seed))


def test_time_passes_between_events(cuda: Cuda) -> None:
    memory, stream = cuda.device(1 << 24), cuda.stream()
    start, end = cuda.event(timed=True), cuda.event(timed=True)
    cuda.record(start, stream)
    cuda.fill(memory, 0, stream)
    cuda.record(end, stream)
    cuda.synchronise(end)
    assert 0 <= cuda.elapsed_ms(start, end) < 10_000


def test_the_gpu_sees_mapped_memory_without_a_copy(cuda: Cuda) -> None:
    given, taken, stream = cuda.host(MANY, np.float32), cuda.host(MANY, np.float32), cuda.stream()
    given.values[...] = numbers()
    seen, other = (Memory(m.address, m.size_bytes, native=m.address) for m in (given, taken))
    cuda.copy(other, seen, stream)  # as a kernel would: by the addresses on the GPU
    cuda.synchronise(stream)
    np.testing.assert_array_equal(taken.values, numbers())


def test_a_captured_graph_runs_when_it_is_launched_and_as_often(cuda: Cuda) -> None:
    given, taken, stream = cuda.host(MANY, np.float32), cuda.host(MANY, np.float32), cuda.stream()
    between = cuda.device(given.size_bytes)

    def work() -> None:
        cuda.copy(between, given, stream)
        cuda.copy(taken, between, stream)

    graph = cuda.capture(stream, work)
    cuda.synchronise(stream)
    assert not taken.values.any()
    for seed in range(3):
        given.values[...] = numbers(seed)
        cuda.launch(graph, stream)
        cuda.synchronise(stream)
        np.testing.assert_array_equal(taken.values, numbers(seed))


def test_a_stream_outlives_a_capture_that_failed(cuda: Cuda) -> None:
    memory, stream = cuda.device(16), cuda.stream()

    def work() -> None:
        cuda.fill(memory, 1, stream)
        raise InputError("not this one")

    with pytest.raises(InputError, match="not this one"):
        cuda.capture(stream, work)
    seen = cuda.host((16,), np.uint8)
    cuda.fill(memory, 2, stream)
    cuda.copy(seen, memory, stream)
    cuda.synchronise(stream)
    assert (seen.values == 2).all()


def test_taking_memory_inside_a_capture_is_refused(cuda: Cuda) -> None:
    stream = cuda.stream()

    def work() -> None:
        cuda.device(16)

    with pytest.raises(CudaError):
        cuda.capture(stream, work)
    memory, seen = cuda.device(16), cuda.host((16,), np.uint8)
    cuda.fill(memory, 3, stream)
    cuda.copy(seen, memory, stream)
    cuda.synchronise(stream)
    assert (seen.values == 3).all()


def test_what_cuda_refuses_is_named_with_the_remedy(cuda: Cuda) -> None:
    with pytest.raises(CudaError, match=r"CUDA_ERROR_OUT_OF_MEMORY.*: the GPU's memory is full") as raised:
        cuda.device(1 << 50)
    assert raised.value.name == "CUDA_ERROR_OUT_OF_MEMORY"
    there_and_back(cuda)


def test_another_thread_enters_first(cuda: Cuda) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            cuda.enter()
            there_and_back(cuda)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []
    there_and_back(cuda)


def test_two_share_the_gpu(new_cuda: Callable[[], Cuda]) -> None:
    first, second = new_cuda(), new_cuda()
    there_and_back(first)
    there_and_back(second)


def test_work_takes_no_memory(cuda: Cuda) -> None:
    given, stream, event = cuda.host((64,), np.float32), cuda.stream(), cuda.event()
    there = cuda.device(given.size_bytes)

    def work() -> None:
        for _ in range(1000):
            cuda.copy(there, given, stream)
            cuda.record(event, stream)
            cuda.synchronise(event)

    work()
    free = cuda.free_bytes()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cuda.integrated or cuda.free_bytes() == free  # where it is everybody's, others take of it
    assert grown < 20_000


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_without_a_gpu_it_is_said(backend: str | None) -> None:
    if detect_gpu() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="no NVIDIA GPU here, or no driver"):
        open_cuda(backend)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(InputError, match="no CUDA backend 'opencl'; expected one of pycuda, cuda-bindings"):
        open_cuda("opencl")
