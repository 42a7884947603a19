"""The yardstick of the shares of the machine's peak."""

from __future__ import annotations

import onnx
import pytest

from tests.bench.machine_peak import make_convolution, open_peak


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_convolution_runs_and_has_the_work_of_itself(precision: str) -> None:
    peak = open_peak(make_convolution("fp32"), precision, threads=1)
    assert peak.work == pytest.approx(1)
    assert peak.take_turn(1) > 0


def test_graph_with_half_the_work_takes_half_the_time_at_the_peak() -> None:
    model = make_convolution("fp32")
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])[:64]
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "weights"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    assert open_peak(model, "fp32", threads=1).work == pytest.approx(2)
