"""One suite of tests of the `Cuda` operations, for both backends and for the simulated GPU."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from edge.core.errors import InputError
from edge.hardware.gpu import detect_gpu
from edge.inference.cuda.backend import BACKENDS, Cuda, CudaError, Memory, open_cuda

SHAPE = (256, 1024)


def random_array(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


def check_round_trip(cuda: Cuda) -> None:
    """Copy numbers to the GPU, from one buffer there to another, and back."""
    source, result = cuda.allocate_pinned(SHAPE, np.float32), cuda.allocate_pinned(SHAPE, np.float32)
    first, second = cuda.allocate(source.size_bytes), cuda.allocate(source.size_bytes)
    stream = cuda.create_stream()
    source.values[...] = random_array()
    for to, origin in ((first, source), (second, first), (result, second)):
        cuda.copy(to, origin, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(result.values, random_array())


def test_copy_returns_the_same_values_after_a_round_trip(cuda: Cuda) -> None:
    check_round_trip(cuda)


def test_pinned_memory_is_zero_and_has_the_requested_shape(cuda: Cuda) -> None:
    memory = cuda.allocate_pinned((2, 3), np.float16)
    assert (memory.values.shape, memory.size_bytes) == ((2, 3), 12)
    assert memory.values.dtype == np.float16
    assert not memory.values.any()
    assert memory.address


def test_fill_sets_every_byte(cuda: Cuda) -> None:
    memory, readback, stream = (
        cuda.allocate(1000),
        cuda.allocate_pinned((1000,), np.uint8),
        cuda.create_stream(),
    )
    cuda.fill(memory, 7, stream)
    cuda.copy(readback, memory, stream)
    cuda.synchronize(stream)
    assert (readback.values == 7).all()


def test_events_order_work_on_two_streams(cuda: Cuda) -> None:
    """Copy in on one stream and out on another, repeatedly through one buffer."""
    up, down = cuda.create_stream(), cuda.create_stream()
    sources = [cuda.allocate_pinned(SHAPE, np.float32) for _ in range(4)]
    results = [cuda.allocate_pinned(SHAPE, np.float32) for _ in range(4)]
    between = cuda.allocate(sources[0].size_bytes)
    filled, emptied = cuda.create_event(), cuda.create_event()
    for seed, (memory, output) in enumerate(zip(sources, results, strict=True)):
        memory.values[...] = random_array(seed)
        cuda.wait(up, emptied)
        cuda.copy(between, memory, up)
        cuda.record(filled, up)
        cuda.wait(down, filled)
        cuda.copy(output, between, down)
        cuda.record(emptied, down)
    cuda.synchronize(emptied)
    for seed, output in enumerate(results):
        np.testing.assert_array_equal(output.values, random_array(seed))


def test_elapsed_time_between_timed_events_is_not_negative(cuda: Cuda) -> None:
    memory, stream = cuda.allocate(1 << 24), cuda.create_stream()
    start, end = cuda.create_event(timed=True), cuda.create_event(timed=True)
    cuda.record(start, stream)
    cuda.fill(memory, 0, stream)
    cuda.record(end, stream)
    cuda.synchronize(end)
    assert 0 <= cuda.elapsed_ms(start, end) < 10_000


def test_pinned_memory_is_accessible_by_its_gpu_address(cuda: Cuda) -> None:
    source, result, stream = (
        cuda.allocate_pinned(SHAPE, np.float32),
        cuda.allocate_pinned(SHAPE, np.float32),
        cuda.create_stream(),
    )
    source.values[...] = random_array()
    mapped_source, mapped_result = (
        Memory(m.address, m.size_bytes, native=m.address) for m in (source, result)
    )
    cuda.copy(mapped_result, mapped_source, stream)  # by GPU addresses, as a kernel would
    cuda.synchronize(stream)
    np.testing.assert_array_equal(result.values, random_array())


def test_captured_graph_runs_at_each_launch_and_not_before(cuda: Cuda) -> None:
    source, result, stream = (
        cuda.allocate_pinned(SHAPE, np.float32),
        cuda.allocate_pinned(SHAPE, np.float32),
        cuda.create_stream(),
    )
    between = cuda.allocate(source.size_bytes)

    def work() -> None:
        cuda.copy(between, source, stream)
        cuda.copy(result, between, stream)

    graph = cuda.capture(stream, work)
    cuda.synchronize(stream)
    assert not result.values.any()
    for seed in range(3):
        source.values[...] = random_array(seed)
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(result.values, random_array(seed))


def test_stream_is_usable_after_a_failed_capture(cuda: Cuda) -> None:
    memory, stream = cuda.allocate(16), cuda.create_stream()

    def work() -> None:
        cuda.fill(memory, 1, stream)
        raise InputError("refused by the test")

    with pytest.raises(InputError, match="refused by the test"):
        cuda.capture(stream, work)
    readback = cuda.allocate_pinned((16,), np.uint8)
    cuda.fill(memory, 2, stream)
    cuda.copy(readback, memory, stream)
    cuda.synchronize(stream)
    assert (readback.values == 2).all()


def test_allocation_during_a_capture_is_refused(cuda: Cuda) -> None:
    stream = cuda.create_stream()

    def work() -> None:
        cuda.allocate(16)

    with pytest.raises(CudaError):
        cuda.capture(stream, work)
    memory, readback = cuda.allocate(16), cuda.allocate_pinned((16,), np.uint8)
    cuda.fill(memory, 3, stream)
    cuda.copy(readback, memory, stream)
    cuda.synchronize(stream)
    assert (readback.values == 3).all()


def test_cuda_error_has_a_name_and_a_remedy(cuda: Cuda) -> None:
    with pytest.raises(CudaError, match=r"CUDA_ERROR_OUT_OF_MEMORY.*: the GPU's memory is full") as raised:
        cuda.allocate(1 << 50)
    assert raised.value.name == "CUDA_ERROR_OUT_OF_MEMORY"
    check_round_trip(cuda)


def test_another_thread_works_after_make_current(cuda: Cuda) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            cuda.make_current()
            check_round_trip(cuda)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert problems == []
    check_round_trip(cuda)


def test_two_instances_share_the_gpu(new_cuda: Callable[[], Cuda]) -> None:
    first, second = new_cuda(), new_cuda()
    check_round_trip(first)
    check_round_trip(second)


def test_repeated_copies_allocate_no_memory(cuda: Cuda) -> None:
    source, stream, event = cuda.allocate_pinned((64,), np.float32), cuda.create_stream(), cuda.create_event()
    target = cuda.allocate(source.size_bytes)

    def work() -> None:
        for _ in range(1000):
            cuda.copy(target, source, stream)
            cuda.record(event, stream)
            cuda.synchronize(event)

    work()
    available = cuda.available_bytes()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cuda.integrated or cuda.available_bytes() == available  # other programs use shared memory too
    assert grown < 20_000


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_open_cuda_without_a_gpu_is_refused(backend: str | None) -> None:
    if detect_gpu() is not None:
        pytest.skip("needs a machine without a GPU, and this one has one")
    with pytest.raises(InputError, match="no NVIDIA GPU here, or no driver"):
        open_cuda(backend)


def test_open_cuda_with_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="no CUDA backend 'opencl'; expected one of pycuda, cuda-bindings"):
        open_cuda("opencl")
