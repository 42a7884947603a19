"""Tests of the input specification of graph files: from calibrate, from options, or from the other graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.onnx_import import import_graph
from edge.sources.factory import open_source
from tests.conftest import Outcome
from tests.support.command_output import parse_output

Command = Callable[..., Outcome]


def save_network(
    path: Path, layout: str, channels: int, sides: tuple[int | str, int | str] = (32, 48)
) -> Path:
    """Write a graph of two convolutions. Its map has the layout of its input; `sides`: height, width."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.normal(size=(16, channels, 3, 3)).astype(np.float32),
        "w1": np.abs(rng.normal(size=(1, 16, 3, 3))).astype(np.float32),
        "bias": np.array([0.3], np.float32),  # makes the map depend on scale and offset
    }
    first, last = ("x", "y") if layout == "nchw" else ("x_t", "y_t")
    nodes = [
        helper.make_node("Sub", [first, "bias"], ["s"], name="sub"),
        helper.make_node("Conv", ["s", "w0"], ["a"], name="one", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w1"], [last], name="two", pads=[1] * 4),
    ]
    if layout == "nhwc":
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["x_t"], name="in", perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["y_t"], ["y"], name="out", perm=[0, 2, 3, 1]))
    shapes = [[1, c, *sides] if layout == "nchw" else [1, *sides, c] for c in (channels, 1)]
    value = helper.make_tensor_value_info
    images = [value(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)]
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "net", images[:1], images[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.usefixtures("fake_timer")
@pytest.mark.parametrize(("layout", "channels"), [("nchw", 3), ("nhwc", 3), ("nchw", 1), ("nhwc", 1)])
def test_calibrated_graph_has_the_input_specification_of_calibrate(
    folder: Path, tmp_path: Path, command: Command, layout: str, channels: int
) -> None:
    graph, out = save_network(tmp_path / "net.onnx", layout, channels), tmp_path / "out"
    scale, offset = ("0.01", "-0.2") if channels == 1 else ("0.01,0.02,0.03", "-0.2")
    arguments = ["--frames", folder, "--scale", scale, "--offset", offset, "--colour", "bgr"]
    outcome = command("calibrate", graph, *arguments, "--method", "minmax", "--out", out)
    assert outcome.code == 0, outcome.err
    options = ["--frames", folder, "--json"]
    comparison = parse_output(command("compare", out / "fp32.onnx", out / "fp16.onnx@tensorrt", *options))
    image = json.loads((out / "calibration.json").read_text())["input"]
    assert comparison["fed"] == [{**image, "output": "y"}] * 2
    assert comparison["outputs"]["y"]["cc"] > 0.999
    assert (image["layout"], image["channels"], image["colour"]) == (layout, channels, "bgr")
    comparison = parse_output(
        command("compare", graph, out / "fp32.onnx", *options)
    )  # a graph file gets the specification of the other graph
    assert comparison["fed"] == [{**image, "output": "y"}] * 2
    assert comparison["outputs"]["y"]["max_error"] < 1e-4
    options = ["--frames", folder, "--picture", tmp_path / "w.png"]
    outcome = command("compare", graph, out / "fp16.onnx", *options)
    assert outcome.code == 0, outcome.err
    assert "input: 48x32" in outcome.out


def test_options_have_the_meaning_that_they_have_for_calibrate(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    """Both graphs get the same options."""
    graph = save_network(tmp_path / "net.onnx", "nchw", 3, ("h", "w"))
    arguments = ["--size", "48x32", "--scale", "1/127.5", "--offset", "-1", "--colour", "bgr"]
    comparison = parse_output(command("compare", graph, graph, "--frames", folder, *arguments, "--json"))
    image = import_graph(graph, size=(48, 32), colour="bgr", scale=[1 / 127.5], offset=[-1.0]).image
    assert comparison["fed"][0]["colour"] == "bgr"
    assert comparison["fed"][1]["scale"] == [1 / 127.5]
    prepared = image(next(iter(open_source(str(folder)))).image)
    assert prepared.shape == (1, 3, 32, 48)
    assert -1 <= prepared.min() < prepared.max() <= 1


@pytest.mark.usefixtures("fake_timer")
def test_options_that_do_not_fit_are_refused_in_one_line(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    graph, out = save_network(tmp_path / "net.onnx", "nchw", 3), tmp_path / "out"
    command("calibrate", graph, "--frames", folder, "--method", "minmax", "--out", out)

    def refused(*arguments: str | Path) -> str:
        outcome = command("compare", *arguments, "--frames", folder)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "next to the graph has one: leave --scale out" in refused(
        out / "fp32.onnx", out / "fp16.onnx", "--scale", "1"
    )
    assert "next to the graph has one: leave --layout out" in refused("skd-64", graph, "--layout", "nchw")
    assert "--scale has 2 numbers" in refused(graph, graph, "--scale", "1,2")
    assert "has no output 'z'" in refused(graph, graph, "--output", "z")
    open_ = save_network(tmp_path / "open.onnx", "nhwc", 3, ("h", "w"))
    assert "of open size; set it: --size WIDTHxHEIGHT" in refused(open_, open_)
    shutil.copy(
        graph, out / "dla.onnx"
    )  # not written by calibrate: gets the specification of the other graph
    assert command("compare", out / "dla.onnx", out / "fp32.onnx", "--frames", folder).code == 0
    file = out / "calibration.json"
    document = json.loads(file.read_text())
    for wrong in ({"layout": "chw"}, {"width": "x"}, {"scale": 3}, {"channels": 4}):
        file.write_text(json.dumps({**document, "input": {**document["input"], **wrong}}))
        assert "does not describe the graph's input" in refused(out / "fp32.onnx", out / "fp16.onnx")
