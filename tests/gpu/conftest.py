"""The GPUs that tests run on: `host`, a stand-in that is always there, and the real one by each backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from edge.core.errors import InputError
from edge.inference.cuda.backend import BACKENDS, Cuda, open_cuda
from tests.gpu.host import Host

NEEDED = "AEROGAZE_NEEDS_CUDA"
"""Names a backend without which the tests fail instead of being skipped."""


def opened(backend: str) -> Cuda:
    """Open the GPU; the test is skipped, with the reason, where that cannot be."""
    try:
        return open_cuda(backend)
    except InputError as error:
        if os.environ.get(NEEDED) == backend:
            raise
        pytest.skip(str(error))


@pytest.fixture(params=["host", *BACKENDS])
def new_cuda(request: pytest.FixtureRequest) -> Iterator[Callable[[], Cuda]]:
    """Open the GPU by each backend; what was opened is closed at the end."""
    made: list[Cuda] = []

    def make() -> Cuda:
        made.append(Host() if request.param == "host" else opened(request.param))
        return made[-1]

    yield make
    for cuda in made:
        cuda.close()


@pytest.fixture
def cuda(new_cuda: Callable[[], Cuda]) -> Cuda:
    """The GPU by each backend."""
    return new_cuda()
