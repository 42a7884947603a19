"""Opens the real GPU for tests."""

from __future__ import annotations

import os

import pytest

from edge.core.errors import InputError
from edge.inference.cuda.backend import Cuda, open_cuda

NEEDED_BACKEND = "AEROGAZE_NEEDS_CUDA"
"""Environment variable with a backend whose tests fail, instead of being skipped, if it cannot be opened."""


def open_cuda_or_skip(backend: str) -> Cuda:
    """Open the GPU, or skip the test with the reason why that is impossible."""
    try:
        return open_cuda(backend)
    except InputError as error:
        if os.environ.get(NEEDED_BACKEND) == backend:
            raise
        pytest.skip(str(error))
