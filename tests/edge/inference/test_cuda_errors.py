"""Errors of CUDA: which of them need a new process, and their remedies."""

from __future__ import annotations

import pytest

from edge.hardware.cuda_driver import ERRORS
from edge.inference.cuda.errors import CudaError


@pytest.mark.parametrize(
    ("name", "is_lost"),
    [
        ("CUDA_ERROR_ILLEGAL_ADDRESS", True),
        ("CUDA_ERROR_CONTAINED", True),
        ("CUDA_ERROR_TENSOR_MEMORY_LEAK", True),
        ("CUDA_ERROR_MPS_CLIENT_TERMINATED", True),
        ("CUDA_ERROR_EXTERNAL_DEVICE", True),
        ("CUDA_ERROR_OUT_OF_MEMORY", False),
        ("CUDA_ERROR_UNKNOWN", False),
    ],
)
def test_errors_after_which_the_context_is_unusable_lose_the_gpu(name: str, is_lost: bool) -> None:
    assert CudaError("cuLaunchKernel", name).lost == is_lost


def test_error_of_cuinit_has_the_remedy_of_the_drivers_table() -> None:
    error = CudaError("cuInit", ERRORS[803].name)
    assert str(error) == f"cuInit failed with CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: {ERRORS[803].remedy}"
