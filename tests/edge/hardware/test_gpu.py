from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from edge.hardware.cuda_driver import ERRORS, DriverAnswer, ask_driver
from edge.hardware.gpu import NO_GPU, Gpu, GpuProblem, detect_gpu, find_gpu_problem
from tests.support.machines import StandInDriver, write_orin

NO_LIBRARY = DriverAnswer(None, problem="libcuda.so.1: cannot open shared object file")


def test_detect_gpu_returns_none_without_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert detect_gpu() is None
    else:
        pytest.skip("needs a machine without a CUDA driver, and this one has one")


def test_detect_gpu_returns_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.hardware.gpu.ask_driver", lambda: ask_driver(StandInDriver()))
    assert detect_gpu() == Gpu("Orin", "8.7")
    assert find_gpu_problem() is None


def test_machine_without_driver_expects_no_gpu_but_a_board_does(tmp_path: Path) -> None:
    assert find_gpu_problem(NO_LIBRARY, tmp_path) == GpuProblem(NO_GPU, "", False)
    problem = find_gpu_problem(NO_LIBRARY, write_orin(tmp_path))
    assert problem is not None
    assert problem.is_gpu_expected
    assert "libcuda.so.1: cannot open" in problem.text


@pytest.mark.parametrize("code", [*ERRORS, 7777])
def test_each_error_of_cuinit_is_a_problem_of_its_own_name(tmp_path: Path, code: int) -> None:
    problem = find_gpu_problem(ask_driver(StandInDriver(code)), tmp_path)
    assert problem is not None
    assert problem.is_gpu_expected
    assert problem.remedy
    name = ERRORS[code].name if code in ERRORS else "error 7777"
    assert problem.text == f"CUDA cannot use a GPU: cuInit gives {code}, {name}"


def test_refused_render_node_is_remedied_by_its_group(tmp_path: Path) -> None:
    def refuse(path: Path) -> str:
        return os.strerror(errno.EACCES) if path.name == "renderD128" else ""

    problem = find_gpu_problem(ask_driver(StandInDriver(801)), write_orin(tmp_path), refuse)
    assert problem is not None
    assert problem.remedy.startswith("sudo usermod -aG render $USER")
