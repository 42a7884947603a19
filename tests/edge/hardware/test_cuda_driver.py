"""Answers of a stand-in for the CUDA driver."""

from __future__ import annotations

import pytest

from edge.hardware.cuda_driver import ask_driver
from tests.support.machines import StandInDriver


def test_working_driver_names_its_gpus() -> None:
    answer = ask_driver(StandInDriver())
    assert (answer.code, answer.cuda, answer.gpus, answer.error_name) == (0, "12.6", (("Orin", "8.7"),), "")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (100, "CUDA_ERROR_NO_DEVICE"),
        (801, "CUDA_ERROR_NOT_SUPPORTED"),
        (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        (999, "CUDA_ERROR_UNKNOWN"),
        (7777, "error 7777"),
    ],
)
def test_error_of_cuinit_is_kept_by_name(code: int, name: str) -> None:
    answer = ask_driver(StandInDriver(code))
    assert (answer.code, answer.error_name, answer.gpus) == (code, name, ())
