"""How `compare` feeds graphs that are no release's: as `calibrate` did, as asked, or as the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.onnx_import import import_graph
from edge.sources.factory import open_source
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def saved(place: Path, layout: str, channels: int, sides: tuple[int | str, int | str] = (32, 48)) -> Path:
    """Write a graph of two convolutions, its map in its input's layout; `sides`: height, width."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.normal(size=(16, channels, 3, 3)).astype(np.float32),
        "w1": np.abs(rng.normal(size=(1, 16, 3, 3))).astype(np.float32),
        "bias": np.array([0.3], np.float32),  # a graph that shows whether it was fed right
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
    onnx.save(model, place)
    return place


def told(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    document: dict[str, Any] = json.loads(outcome.out)
    return document


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("layout", "channels"), [("nchw", 3), ("nhwc", 3), ("nchw", 1), ("nhwc", 1)])
def test_what_calibrate_wrote_is_fed_as_it_was_calibrated(
    folder: Path, tmp_path: Path, command: Command, layout: str, channels: int
) -> None:
    graph, out = saved(tmp_path / "net.onnx", layout, channels), tmp_path / "out"
    scale, offset = ("0.01", "-0.2") if channels == 1 else ("0.01,0.02,0.03", "-0.2")
    words = ["--frames", folder, "--scale", scale, "--offset", offset, "--colour", "bgr"]
    outcome = command("calibrate", graph, *words, "--method", "minmax", "--out", out)
    assert outcome.code == 0, outcome.err
    ends = ["--frames", folder, "--json"]
    found = told(command("compare", out / "fp32.onnx", out / "fp16.onnx@tensorrt", *ends))
    image = json.loads((out / "calibration.json").read_text())["input"]
    assert found["fed"] == [{**image, "output": "y"}] * 2
    assert found["outputs"]["y"]["cc"] > 0.999
    assert (image["layout"], image["channels"], image["colour"]) == (layout, channels, "bgr")
    found = told(command("compare", graph, out / "fp32.onnx", *ends))  # a lone graph is fed as the other
    assert found["fed"] == [{**image, "output": "y"}] * 2
    assert found["outputs"]["y"]["max_error"] < 1e-4
    ends = ["--frames", folder, "--picture", tmp_path / "w.png"]
    outcome = command("compare", graph, out / "fp16.onnx", *ends)
    assert outcome.code == 0, outcome.err
    assert "fed: 48x32" in outcome.out


def test_options_feed_as_calibrate_would(folder: Path, tmp_path: Path, command: Command) -> None:
    """One graph takes the pixels, the other has their scaling inside."""
    graph = saved(tmp_path / "net.onnx", "nchw", 3, ("h", "w"))
    words = ["--size", "48x32", "--scale", "1/127.5", "--offset", "-1", "--colour", "bgr"]
    found = told(command("compare", graph, graph, "--frames", folder, *words, "--json"))
    image = import_graph(graph, size=(48, 32), colour="bgr", scale=[1 / 127.5], offset=[-1.0]).image
    assert found["fed"][0]["colour"] == "bgr"
    assert found["fed"][1]["scale"] == [1 / 127.5]
    prepared = image(next(iter(open_source(str(folder)))).image)
    assert prepared.shape == (1, 3, 32, 48)
    assert -1 <= prepared.min() < prepared.max() <= 1


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_is_one_clear_line(folder: Path, tmp_path: Path, command: Command) -> None:
    graph, out = saved(tmp_path / "net.onnx", "nchw", 3), tmp_path / "out"
    command("calibrate", graph, "--frames", folder, "--method", "minmax", "--out", out)

    def refused(*words: str | Path) -> str:
        outcome = command("compare", *words, "--frames", folder)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "says it itself: leave it out" in refused(out / "fp32.onnx", out / "fp16.onnx", "--scale", "1")
    assert "says it itself: leave it out" in refused("skd-64", graph, "--layout", "nchw")
    assert "--scale has 2 numbers" in refused(graph, graph, "--scale", "1,2")
    assert "has no output 'z'" in refused(graph, graph, "--output", "z")
    open_ = saved(tmp_path / "open.onnx", "nhwc", 3, ("h", "w"))
    assert "of open size; say which: --size WIDTHxHEIGHT" in refused(open_, open_)
    shutil.copy(graph, out / "dla.onnx")  # not calibrate's: fed as the other all the same
    assert command("compare", out / "dla.onnx", out / "fp32.onnx", "--frames", folder).code == 0
    place = out / "calibration.json"
    document = json.loads(place.read_text())
    for wrong in ({"layout": "chw"}, {"width": "x"}, {"scale": 3}, {"channels": 4}):
        place.write_text(json.dumps({**document, "input": {**document["input"], **wrong}}))
        assert "does not say how the graph is fed" in refused(out / "fp32.onnx", out / "fp16.onnx")
