"""Tests of the diagnostics that name the weakest node of a float16 graph."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from calibration.inputs.graph_inputs import InputFeeder
from calibration.search.fp16_diagnostics import describe_overflow, describe_weakest_node
from export.graphs.fp16 import to_fp16
from tests.support.onnx_graphs import CANCELLING, HARMLESS, OVERFLOWING, Steps, operator_chain


def fp16_chain(*steps: tuple[str, float | None]) -> onnx.ModelProto:
    return to_fp16(operator_chain(*steps), ["x", "y"])


def feeder() -> InputFeeder:
    def prepare(frame: np.ndarray) -> np.ndarray:
        return np.asarray(frame.transpose(2, 0, 1)[None] / 255, np.float32)

    return InputFeeder(prepare, ("x",), "y")


def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (OVERFLOWING, r"node Mul_2 \(Mul\) reaches 4e\+06, and the maximum of float16 is 65504"),
        (CANCELLING, r"node Add_0 \(Add\) loses most"),
        (
            (("Mul", 1e-9), ("Reciprocal", None)),
            r"node Reciprocal_1 \(Reciprocal\) gives values that are not finite",
        ),
    ],
)
def test_weakest_node_is_named(steps: Steps, message: str) -> None:
    assert re.match(message, describe_weakest_node(fp16_chain(*steps), feeder(), windows()))


def test_float32_graph_has_no_weakest_node() -> None:
    assert describe_weakest_node(operator_chain(*HARMLESS), feeder(), windows()) == "no node is in float16"


def test_overflow_is_found_from_float32_extremes() -> None:
    extremes = {"x": (0.0, 1.0), "t1": (0.0, 2e3), "t2": (-4e6, 0.0), "y": (0.0, 2e3)}
    sentence = describe_overflow(fp16_chain(*OVERFLOWING), extremes)
    assert sentence == "node Mul_2 (Mul) reaches 4e+06, and the maximum of float16 is 65504"
    assert describe_overflow(fp16_chain(*HARMLESS), {"t0": (0.0, 0.3), "y": (0.0, 1.0)}) is None
