"""What an ONNX file says about itself, what is asked for, what contradicts it, and the adapter around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.graph_inputs import InputFeeder, Window, open_session
from edge.core.errors import InputError
from export.graphs.onnx_export import SALIENCY
from export.networks.network_adapter import FRAME, adapt_network
from export.networks.network_guess import Network, NetworkOptions, describe_network
from export.release.network_release import compute_network_maps
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


def test_preset_for_colour_follows_the_order_of_the_channels() -> None:
    rgb, bgr = (
        describe(networks.upsampling_network(), colour=colour, preset="imagenet").source
        for colour in ("rgb", "bgr")
    )
    assert rgb.offset[0] == pytest.approx(-0.485 / 0.229)
    assert bgr.scale == rgb.scale[::-1]
    assert bgr.offset == rgb.offset[::-1]
    source = describe(networks.upsampling_network(), colour="bgr", mean=(0.1, 0.2, 0.3), std=(1.0,)).source
    assert source.offset == pytest.approx((-0.1, -0.2, -0.3))  # numbers are in the order of the graph


def recurrent_window_network() -> onnx.ModelProto:
    """Return a network that takes two frames and a state."""
    nodes = [
        helper.make_node("Add", ["clip", "h"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["map"], axes=[1, 2]),
        helper.make_node("Identity", ["h"], ["h_next"]),
    ]
    values = [("clip", [1, 3, 2, 8, 8]), ("h", [1]), ("map", [1, 1, 1, 8, 8]), ("h_next", [1])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
    graph = helper.make_graph(nodes, "both", tensors[:2], tensors[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def network_with_state_named(name: str) -> onnx.ModelProto:
    """Return `recurrent_network` with another name of the state."""
    model = networks.recurrent_network()
    model.graph.input[1].name = name
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    concat.input[1] = name
    return model


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
        (networks.upsampling_network, {**IMAGENET, "window": 5}, "--window 5 does not fit input image"),
        (networks.upsampling_network, {**IMAGENET, "window": 2}, "--window 2 does not fit input image"),
        (networks.channels_last_network, {"window": 3}, "--window 3 does not fit input frame .* in nhwc"),
        (
            networks.recurrent_network,
            {**IMAGENET, "states": (("h", "h_next"),), "size": (64, 48), "window": 2},
            "--window 2 does not fit input bgr",
        ),
        (
            recurrent_window_network,
            {**IMAGENET, "states": (("h", "h_next"),)},
            "takes 2 frames at once and has states",
        ),
        (
            lambda: network_with_state_named("frame"),
            {**IMAGENET, "states": (("frame", "h_next"),)},
            "--state frame=h_next does not fit .* not called frame or saliency",
        ),
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


def several_maps_network(shape: Sequence[int], window: int = 1) -> onnx.ModelProto:
    """Return a network with an output of this shape, whose values are a constant plus the frame's mean."""
    values = np.random.default_rng(3).random(shape).astype(np.float32)
    frame = [1, 3, window, 8, 8] if window > 1 else [1, 3, 8, 8]
    nodes = [
        helper.make_node("ReduceMean", ["frame"], ["mean"], keepdims=0),
        helper.make_node("Add", ["values", "mean"], ["maps"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "several",
        [value("frame", TensorProto.FLOAT, frame)],
        [value("maps", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(values, "values")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("shape", "window", "channel", "place"),
    [
        ((1, 2, 4, 5), 1, 1, (1, 1)),
        ((1, 4, 5, 3), 1, -1, (3, 2)),
        ((1, 6, 4, 5), 6, None, (1, 5)),  # a map for each frame of the window: the last
        ((1, 1, 6, 4, 5), 6, None, (2, 5)),
        ((1, 6, 4, 5, 1), 6, 0, (1, 0)),
    ],
)
def test_one_of_several_maps_is_taken(
    shape: tuple[int, ...], window: int, channel: int | None, place: tuple[int, int]
) -> None:
    options = {"preset": "unit", "colour": "rgb", "activation": "sigmoid"}
    network = describe(several_maps_network(shape, window), channel=channel, **options)
    target = network.target
    assert (target.axis, target.index, target.width, target.height) == (*place, 5, 4)
    frames = np.random.default_rng(0).integers(0, 256, (window, 8, 8, 3), np.uint8)
    (expected,) = compute_network_maps(network, [frames])
    np.testing.assert_allclose(predict_adapted(network, frames), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "channel", "message"),
    [
        ((1, 2, 4, 5), None, "choose one of its 2 channels with --channel"),
        ((1, 2, 4, 5), 2, "--channel is 2; output maps has 2 channels: expected -2 to 1"),
        ((1, 1, 4, 5), 0, "without channels: leave --channel out"),
        ((2, 2, 4, 5), None, "expected one map, .*: name another with --output"),
    ],
)
def test_channel_that_does_not_fit_is_refused(
    shape: tuple[int, ...], channel: int | None, message: str
) -> None:
    options = {"preset": "unit", "colour": "rgb", "activation": "none"}
    with pytest.raises(InputError, match=message):
        describe(several_maps_network(shape), channel=channel, **options)


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


def predict_adapted(network: Network, window: Window) -> np.ndarray:
    model = adapt_network(network.model, network.source, network.target, network.states)
    onnx.checker.check_model(model, full_check=True)
    feeder = InputFeeder(network.source.preprocessing, (FRAME,), SALIENCY, clip=network.source.frames)
    return feeder.run(open_session(model), window)


@pytest.mark.parametrize(
    ("source", "inner", "weight", "target"),
    [
        ("frame", "saliency", "frame_scale_0", "saliency_shape_0"),
        ("image", "frame_mul_0", "saliency", "frame"),
        ("saliency", "frame", "saliency_size_1", "saliency_resize_2"),
        ("image", "network_frame", "frame", "saliency"),
    ],
)
def test_tensors_called_like_those_of_the_adapter_keep_their_values(
    source: str, inner: str, weight: str, target: str
) -> None:
    nodes = [
        helper.make_node("Mul", [source, weight], [inner], name="frame_mul_0"),
        helper.make_node("ReduceMean", [inner, "axes"], [target], name="saliency_reshape_0"),
    ]
    values = [(source, [1, 3, 8, 8]), (target, [1, 1, 8, 8])]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values]
    factors = np.array([0.2, 0.5, 0.9], np.float32).reshape(1, 3, 1, 1)
    constants = [
        numpy_helper.from_array(factors, weight),
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
    ]
    graph = helper.make_graph(nodes, "names", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    network = describe(model, preset="imagenet", activation="sigmoid", map_size=(4, 4))
    window = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    (expected,) = compute_network_maps(network, [window])
    np.testing.assert_allclose(predict_adapted(network, window), expected, atol=1e-6)


def test_grey_values_of_whole_numbers_are_rounded_like_those_of_opencv() -> None:
    node = helper.make_node("Cast", ["grey"], ["map"], to=TensorProto.FLOAT)
    shape = [1, 1, 64, 64]
    source = helper.make_tensor_value_info("grey", TensorProto.UINT8, shape)
    target = helper.make_tensor_value_info("map", TensorProto.FLOAT, shape)
    graph = helper.make_graph([node], "grey", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    network = describe(model, activation="none")
    window = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = cv2.cvtColor(window[0], cv2.COLOR_BGR2GRAY)
    (of_file,) = compute_network_maps(network, [window])
    np.testing.assert_array_equal(of_file, expected)
    np.testing.assert_array_equal(predict_adapted(network, window), expected)
