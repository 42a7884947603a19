"""What an ONNX file says about itself, what is asked for, and what contradicts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edge.core.errors import InputError
from export.networks.network_guess import Network, NetworkOptions, describe_network
from tests.support import foreign_networks as networks

PATH = Path("model.onnx")


def describe(model: onnx.ModelProto, **options: Any) -> Network:
    return describe_network(PATH, model, NetworkOptions(**options))


def test_all_that_is_missing_is_asked_for_in_one_line() -> None:
    with pytest.raises(InputError) as error:
        describe(networks.recurrent_network(), states=(("h", "h_next"),))
    message = str(error.value)
    assert "\n" not in message
    for option in ("--size WxH", "--preset imagenet|unit|symmetric|raw, or --mean", "--colour rgb|bgr"):
        assert option in message
    with pytest.raises(InputError, match=r"which output is the map \(--output features\|log_density\)"):
        describe(networks.log_density_network(), preset="imagenet")
    with pytest.raises(InputError, match="what makes a map of its output"):
        describe(networks.channels_last_network(), colour="rgb")


def test_what_the_graph_settles_is_not_asked_for() -> None:
    network = describe(networks.channels_last_network(), colour="bgr", activation="sigmoid")
    source = network.source
    assert (source.layout, source.dtype, source.width, source.height) == ("nhwc", "uint8", 64, 48)
    assert (source.scale, source.offset) == ((1.0,) * 3, (0.0,) * 3)
    network = describe(networks.upsampling_network(), preset="imagenet")
    assert (network.source.colour, network.target.activation) == ("rgb", "none")
    network = describe(networks.log_density_network(), preset="imagenet", output="log_density")
    assert network.target.activation == "logsoftmax"
    network = describe(networks.window_network(), preset="unit", colour="rgb")
    assert (network.source.layout, network.source.frames) == ("ntchw", networks.WINDOW)
    network = describe(networks.half_network(), preset="unit", activation="sigmoid")
    assert (network.source.channels, network.source.dtype) == (1, "float32")


def test_activation_that_the_graph_ends_in_is_not_added_again() -> None:
    network = describe(networks.upsampling_network(), preset="imagenet", activation="sigmoid")
    assert network.target.activation == "none"
    assert network.notes == ("output saliency has its sigmoid already: none is added",)


@pytest.mark.parametrize(
    ("options", "scale", "offset"),
    [
        ({"preset": "symmetric"}, 1 / 127.5, -1.0),
        ({"preset": "raw"}, 1.0, 0.0),
        ({"mean": (0.5,), "std": (0.25,)}, 1 / 63.75, -2.0),
        ({"mean": (127.5,), "std": (127.5,)}, 1 / 127.5, -1.0),
        ({"mean": (100.0,), "std": (1.0,)}, 1.0, -100.0),
    ],
)
def test_mean_and_deviation_are_of_white_1_or_of_white_255(
    options: dict[str, Any], scale: float, offset: float
) -> None:
    source = describe(networks.upsampling_network(), colour="rgb", **options).source
    assert source.scale == pytest.approx((scale,) * 3)
    assert source.offset == pytest.approx((offset,) * 3)


IMAGENET = {"preset": "imagenet"}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (networks.upsampling_network, {**IMAGENET, "size": (64, 64)}, "--size is 64x64; .* takes 64x48"),
        (networks.upsampling_network, {**IMAGENET, "layout": "nhwc"}, "it fits nchw"),
        (networks.upsampling_network, {**IMAGENET, "mean": (0.5,)}, "leave --mean and --std out"),
        (networks.upsampling_network, {"mean": (1.0, 2.0), "std": (1.0,)}, "--mean has 2 numbers"),
        (networks.upsampling_network, {"mean": (0.0,), "std": (0.0,)}, "--std has a 0"),
        (networks.upsampling_network, {**IMAGENET, "output": "none"}, "has no output 'none'"),
        (networks.channels_last_network, {**IMAGENET}, "takes uint8, so the values"),
        (networks.log_density_network, {**IMAGENET, "output": "features"}, "expected one map"),
        (networks.window_network, {**IMAGENET, "window": 5}, "--window is 5; the network takes 4"),
        (networks.recurrent_network, IMAGENET, "has the inputs bgr, h; expected one"),
        (networks.recurrent_network, {**IMAGENET, "states": (("h", "x"),)}, "--state h=x does not fit"),
        (
            networks.recurrent_network,
            {"preset": "raw", "colour": "bgr", "states": (("h", "h_next"),), "size": (64, 48)},
            "give its size with --map WxH, 768 pixels",
        ),
        (
            networks.recurrent_network,
            {"preset": "raw", "colour": "bgr", "states": (("h", "h_next"),), "size": (32, 48)},
            "does not run on frames of 32x48",
        ),
    ],
)
def test_what_contradicts_the_graph_is_refused_by_name(
    model: Callable[[], onnx.ModelProto], options: dict[str, Any], message: str
) -> None:
    settled: dict[str, Any] = {"activation": "none", "colour": "rgb"}
    with pytest.raises(InputError, match=message):
        describe(model(), **(settled | options))


def test_window_in_the_channels_needs_its_length() -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 12), ("y", 1))
    ]
    graph = helper.make_graph([node], "mean", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options: dict[str, Any] = {**IMAGENET, "activation": "none"}
    with pytest.raises(InputError, match="the layout of its input"):
        describe(model, **options)
    source = describe(model, window=4, **options).source
    assert (source.frames, source.channels, source.shape) == (4, 3, (1, 12, 8, 8))
