"""Opens the real GPU and TensorRT for tests, or skips them; where they are needed, fails instead.

`AEROGAZE_NEEDS=gpu,cuda-bindings,tensorrt python -m pytest tests/gpu`: on a machine that has these, a test
that cannot use one of them fails. So a broken driver or a missing package cannot pass for success.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import pytest

from edge.acceptance.workspace import TARGETS, find_target
from edge.core.errors import InputError
from edge.hardware.gpu import find_gpu_problem
from edge.inference.cuda.backend import BACKENDS, Cuda, open_cuda
from edge.inference.tensorrt.build_target import TensorRTKind

NEEDS_VARIABLE = "AEROGAZE_NEEDS"
NEEDS = ("gpu", *BACKENDS, "nvrtc", "tensorrt", "rtx")
"""What the variable may name: a GPU that CUDA can use, and libraries."""


def needs() -> set[str]:
    """Return what this machine must have."""
    named = {need.strip() for need in os.environ.get(NEEDS_VARIABLE, "").split(",")} - {""}
    if unknown := named - {*NEEDS}:
        pytest.fail(
            f"{NEEDS_VARIABLE} names {', '.join(sorted(unknown))}; expected some of {', '.join(NEEDS)}"
        )
    return named


def skip_or_fail(reason: str, *missing: str) -> NoReturn:
    """Skip the test for a reason, or fail it if the machine must have something that is missing."""
    if needed := needs() & {*missing}:
        pytest.fail(f"{NEEDS_VARIABLE} names {', '.join(sorted(needed))}: {reason}")
    pytest.skip(reason)


def open_cuda_or_skip(backend: str) -> Cuda:
    """Open the GPU with a backend, or skip the test with the reason why that is impossible."""
    require_gpu(backend)
    try:
        return open_cuda(backend)
    except InputError as error:
        skip_or_fail(str(error), backend)


def require_gpu(*users: str) -> None:
    """Skip the test if CUDA can use no GPU here.

    Args:
        users: Needs of the test besides the GPU, which without one are missing, too.
    """
    problem = find_gpu_problem()
    if problem is not None:
        remedy = problem.remedy or "run these tests on a machine with a GPU and NVIDIA's driver"
        skip_or_fail(f"{problem.text}: {remedy}", "gpu", *users)


def load_tensorrt_or_skip() -> tuple[str, TensorRTKind]:
    """Return target and kind of the first TensorRT that can be loaded, or skip the test."""
    needed = {target: kind for target, kind in TARGETS.items() if kind in needs()} or TARGETS
    try:
        target = find_target(needed)
    except InputError as error:
        skip_or_fail(str(error), *TARGETS.values())
    return target, TARGETS[target]


def import_rtx() -> Any:
    """Import TensorRT for RTX, which works without a GPU, or skip the test."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError as error:
        skip_or_fail(f"TensorRT for RTX is not installed ({error}): pip install 'aerogaze[rtx]'", "rtx")
