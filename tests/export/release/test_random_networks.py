"""Networks as exporters write them: whatever ONNX Runtime runs is calibrated, or refused in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from edge.core.errors import InputError
from tests.support.random_networks.checks import check_calibration
from tests.support.random_networks.networks import NETWORKS, make_network
from tests.support.random_networks.styles import Style

REFUSALS = ("is not finite",)
"""What random weights may do, and no network that was trained."""


def check(model: onnx.ModelProto, folder: Path) -> tuple[str, ...]:
    """Check a network that ONNX Runtime runs; the float16 graph may be missing, but only for its accuracy."""
    warnings = check_calibration(model, folder)
    assert warnings is not None, "ONNX Runtime does not run the network"
    assert not any("cannot be converted" in warning for warning in warnings)
    return warnings


@pytest.mark.parametrize(
    ("style", "blocks"),
    [
        (Style(7, constants="inputs"), ["residual"]),  # IR 3 demands it
        (Style(11, constants="inputs"), ["residual"]),
        (Style(7), ["Resize linear by scales", "Resize nearest by scales"]),
        (Style(10), ["Resize linear by scales", "Resize nearest by scales"]),
        (Style(13), ["Resize nearest by scales", "Resize linear by sizes"]),
        (Style(17), ["Resize cubic by scales", "Resize nearest by computed sizes"]),
        (Style(20), ["NonMaxSuppression as an output", "NonMaxSuppression as an output", "Range"]),
        (Style(20), ["NonZero as an output", "ConstantOfShape"]),
        (Style(20), ["Concat with a constant", "add constant"]),
        (Style(13, constants="nodes"), ["Concat with a constant", "computed weights"]),
        (Style(20, writes_empty_names=True), ["depthwise", "dilated"]),
        (Style(20, names="unlucky"), ["residual", "shared weights"]),
        (Style(20, names="unlucky", half="inside"), ["residual", "ConvTranspose"]),
        (Style(20, names="empty", half="inside"), ["squeeze and excite", "BatchNormalization"]),
        (Style(15, half="all"), ["mean norm", "Split"]),
        (Style(20, has_stale_shapes=True, is_open=True), ["reshape by Shape", "strided"]),
        (Style(21), ["GroupNormalization", "Gelu"]),  # in opset 20 it has scales for groups, not channels
        (Style(23, layout="nhwc"), ["Gemm", "GridSample"]),  # no converter knows them
        (Style(20), ["float64", "through int32", "Where"]),
        (Style(17), ["masked attention"]),
        (Style(17), ["LSTM", "LSTM of the last state"]),
        (Style(13), ["3-D convolution", "Softmax over channels", "3-D convolution"]),
        (Style(13), ["Round", "MaxUnpool", "ThresholdedRelu"]),
        (Style(17, half="inside"), ["ArgMax", "TopK", "through int32"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_network_of_an_exporter_is_calibrated(style: Style, blocks: list[str], tmp_path: Path) -> None:
    check(make_network(style, blocks), tmp_path)


@pytest.mark.long
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(model=NETWORKS)
def test_any_network_that_onnx_runtime_runs_is_calibrated_or_refused_in_one_line(
    model: onnx.ModelProto,
) -> None:
    refusal, warnings = "", None
    with tempfile.TemporaryDirectory() as folder:
        try:
            warnings = check_calibration(model, Path(folder))
        except InputError as error:
            refusal = str(error)
    assert not refusal or any(reason in refusal for reason in REFUSALS), refusal
    assert "\n" not in refusal
    assert not any("cannot be converted" in warning for warning in warnings or ())
