from __future__ import annotations

import ctypes

import pytest

from edge.hardware.gpu import detect_gpu


def test_a_machine_without_a_driver_has_no_gpu() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert detect_gpu() is None
    else:
        pytest.skip("there is a CUDA driver")
