"""GPUs for the tests: a simulated one, which is always available, and the real one with each backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from edge.inference.cuda.backend import BACKENDS, Cuda
from tests.support.cuda_backends import open_cuda_or_skip
from tests.support.simulated_gpu import SimulatedCuda


@pytest.fixture(params=["simulated", *BACKENDS])
def new_cuda(request: pytest.FixtureRequest) -> Iterator[Callable[[], Cuda]]:
    """Return a function that opens the GPU with each backend. All are closed at the end."""
    gpus: list[Cuda] = []

    def open_gpu() -> Cuda:
        gpus.append(SimulatedCuda() if request.param == "simulated" else open_cuda_or_skip(request.param))
        return gpus[-1]

    yield open_gpu
    for gpu in gpus:
        gpu.close()


@pytest.fixture
def cuda(new_cuda: Callable[[], Cuda]) -> Cuda:
    """Return the GPU, opened with each backend."""
    return new_cuda()
