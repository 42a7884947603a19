"""Errors of CUDA: which of them need a new process, and their remedies."""

from __future__ import annotations

import pytest

from edge.hardware.cuda_driver import ERRORS
from edge.inference.cuda.errors import FATAL, CudaError, find_lasting_error


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


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("Error Code 1: Cuda Runtime (unspecified launch failure)", "LAUNCH_FAILED"),
        ("Error Code 1: Cuda Driver (an illegal memory access was encountered)", "ILLEGAL_ADDRESS"),
        ("Internal Error: Myelin: CUDA error 719 launching a kernel", "LAUNCH_FAILED"),
        ("Error Code 1: Cuda Runtime (unknown error)", "UNKNOWN"),
        ("Error Code 1: Cuda Runtime (out of memory)", None),
        ("Error Code 10: Could not find any implementation for node 700", None),
        ("unknown error of the parser", None),
        ("", None),
    ],
)
def test_lost_gpu_is_found_in_the_words_of_tensorrt(message: str, name: str | None) -> None:
    assert find_lasting_error(message) == (name and f"CUDA_ERROR_{name}")


@pytest.mark.parametrize("code", [700, 719, 810])
def test_texts_of_lasting_errors_are_those_of_cuda(code: int) -> None:
    runtime = pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is not installed: pip install 'aerogaze[cuda]'"
    )
    _, text = runtime.cudaGetErrorString(runtime.cudaError_t(code))
    assert FATAL[code][1] == text.decode()
