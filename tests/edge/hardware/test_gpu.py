from __future__ import annotations

import ctypes

import pytest

from edge.hardware.gpu import detect_gpu


def test_detect_gpu_returns_none_without_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert detect_gpu() is None
    else:
        pytest.skip("there is a CUDA driver")
