"""Tests of the comparison of two graphs: numbers, layers, limits, picture, and operands that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import MAX_DB, cc, kld
from edge.release.manifest import SHIPPED_RELEASES
from edge.sources.factory import open_source
from export.compare.compare import TensorDifference, match_layers
from tests.conftest import Outcome
from tests.support.command_output import parse_output
from trainer.models.student import Student

Command = Callable[..., Outcome]
SHIPPED = SHIPPED_RELEASES / "skd-64"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_differences_are_those_of_the_maps_of_a_run(command: Command, folder: Path, precision: str) -> None:
    document = parse_output(
        command("compare", "skd-64:fp32", f"skd-64:{precision}", "--frames", folder, "--json")
    )
    frames = np.stack([frame.image for frame in open_source(str(folder))])
    a, b = (compute_clip_maps(SaliencyModel("skd-64", p), frames) for p in ("fp32", precision))
    ccs = [cc(x, y) for x, y in zip(a, b, strict=True)]
    expected = {
        "max_error": np.abs(a - b).max(),
        "mean_error": np.abs(a - b).mean(),
        "sqnr_db": 10 * math.log10((a.astype(float) ** 2).sum() / ((a.astype(float) - b) ** 2).sum()),
        "cc": np.mean(ccs),
        "least_cc": min(ccs),
        "kld": np.mean([kld(y, x) for x, y in zip(a, b, strict=True)]),
    }
    assert document["frames"] == 12
    assert document["outputs"]["saliency"] == pytest.approx(expected, rel=1e-3)
    assert document["worst_frame"] == int(np.argmin(ccs))
    assert 0 < document["outputs"]["features_out"]["kld"] < 0.1


def test_graph_does_not_differ_from_itself(command: Command, folder: Path) -> None:
    document = parse_output(command("compare", "skd-64:int8", "skd-64:int8", "--frames", folder, "--json"))
    same = {"max_error": 0, "mean_error": 0, "sqnr_db": MAX_DB, "cc": 1, "least_cc": 1}
    for summary in document["outputs"].values():
        assert {name: summary[name] for name in same} == same


def reversed_weights(path: Path, weight: str) -> Path:
    """Write the shipped fp32 graph with the weights of one convolution in reverse order."""
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(model, path)
    return path


def test_first_diverging_layer_is_named(command: Command, folder: Path, tmp_path: Path) -> None:
    other = reversed_weights(tmp_path / "other.onnx", "network.spatial.0.0.weight")
    arguments = ["compare", "skd-64", other, "--frames", folder, "--layers"]
    document = parse_output(command(*arguments, "--json"))
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    node = next(n for n in model.graph.node if "network.spatial.0.0.weight" in n.input)
    assert document["first_diverging"] == node.name
    order = list(document["layers"])
    before = order[: order.index(node.name)]
    temporal = [name for name in before if document["layers"][name]["sqnr_db"] < MAX_DB]
    assert temporal == []
    klds = [layer["kld"] for layer in document["layers"].values()]
    assert all(value == pytest.approx(0, abs=1e-6) for value in klds[: len(before)])
    assert klds[len(before)] > 0.001
    outcome = command(*arguments)
    assert f"first layer below 20 dB: {node.name}" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    document = parse_output(
        command("compare", "skd-64", "skd-64:fp16", "--frames", folder, "--layers", "--json")
    )
    assert document["first_diverging"] is None


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_layers_are_matched_through_qdq_nodes(engine: str) -> None:
    plain = onnx.load(SHIPPED / "stream.fp32.onnx")
    rounded = onnx.load(SHIPPED / f"stream.int8.{engine}.onnx")
    layers = match_layers(plain, rounded)
    names = [output for node in plain.graph.node for output in node.output]
    assert [layer.name for layer in layers] == [node.name for node in plain.graph.node]  # all, in order
    with_itself = [layer.name for layer in match_layers(rounded, rounded)]
    assert set(with_itself) >= {layer.name for layer in layers if layer.name != "node_exp"}
    assert not any(name.endswith("_plain") for name in with_itself)
    operators = {output: node.op_type for node in rounded.graph.node for output in node.output}
    through = {layer.a for layer in layers if operators[layer.b] == "DequantizeLinear"}
    quantised = {n.input[0] for n in rounded.graph.node if n.op_type == "QuantizeLinear"}
    assert through == {name.removesuffix("_plain") for name in quantised} - {"features"}
    assert {layer.a for layer in layers} == set(names)


def test_layers_without_a_name_of_their_own_are_called_by_their_outputs() -> None:
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    first, second, third = list(model.graph.node)[:3]
    second.name, third.name = "", first.name
    names = [layer.name for layer in match_layers(model, model)]
    assert names[:3] == [first.name, second.output[0], third.output[0]]


def test_picture_of_the_worst_frame_is_written(command: Command, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "worst.png"
    arguments = ["skd-64:fp32", "skd-64:int8", "--frames", folder, "--picture", picture]
    outcome = command("compare", *arguments)
    assert outcome.code == 0, outcome.err
    assert f"wrote {picture}" in outcome.out.replace("\n", "")
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] > 1000
    assert image.std() > 20


@pytest.mark.parametrize(
    ("limit", "code", "message"),
    [
        (["--min-cc", "0.99"], 0, ""),
        (["--max-error", "0.5"], 0, ""),
        (["--min-cc", "0.99999"], 1, "mean CC is 0.99"),
        (["--max-error", "0.0001"], 1, "expected at most 0.0001"),
    ],
)
def test_exit_code_is_1_when_a_limit_is_exceeded(
    command: Command, folder: Path, limit: list[str], code: int, message: str
) -> None:
    outcome = command("compare", "skd-64:fp32", "skd-64:int8", "--frames", folder, *limit)
    assert outcome.code == code
    assert message in outcome.err
    assert outcome.err.count("\n") == code


def test_graph_with_nan_exceeds_every_limit(command: Command, folder: Path, tmp_path: Path) -> None:
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "network.spatial.0.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.nan, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    arguments = ["compare", "skd-64", tmp_path / "nan.onnx", "--frames", folder, "--max-frames", "3"]
    document = parse_output(command(*arguments, "--json"))
    assert document["outputs"]["saliency"]["max_error"] is None
    for limit in (["--min-cc", "0.1"], ["--max-error", "100"]):
        outcome = command(*arguments, *limit)
        assert outcome.code == 1
        assert "NaN" in outcome.err


def test_pair_form_and_students_that_look_ahead_are_compared(
    student: Student, released: Path, folder: Path, command: Command
) -> None:
    """The maps of the stream form are those of the pair form, for both neighbours a student may take."""
    options = ["--frames", folder, "--json"]
    document = parse_output(
        command("compare", f"{released}:fp32", f"{released}:int8", "--form", "pair", *options)
    )
    assert document["frames"] == 12 - student.settings.delay_frames
    assert document["outputs"]["saliency"]["cc"] > 0.98
    document = parse_output(command("compare", released, released / "pair.fp32.onnx", *options))
    assert document["outputs"]["saliency"]["max_error"] < 1e-5


def image_graph(shape: list[int | str], output: list[int | str]) -> onnx.ModelProto:
    """Return a graph that computes the mean of an image over its colours."""
    value = helper.make_tensor_value_info
    axes = numpy_helper.from_array(np.array([1]), "axes")
    node = helper.make_node("ReduceMean", ["image", "axes"], ["map"], keepdims=1)
    graph = helper.make_graph(
        [node],
        "mean",
        [value("image", TensorProto.FLOAT, shape)],
        [value("map", TensorProto.FLOAT, output)],
        [axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_two_graph_files_without_a_release_are_compared(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    onnx.save(image_graph([1, 3, 48, 64], [1, 1, 48, 64]), tmp_path / "a.onnx")
    onnx.save(image_graph([1, 3, 24, 32], [1, 1, 24, 32]), tmp_path / "small.onnx")
    document = parse_output(
        command("compare", *[tmp_path / "a.onnx"] * 2, "--frames", folder, "--layers", "--json")
    )
    assert document["saliency"] == "map"
    assert document["fed"][0]["scale"] == [1 / 255]
    assert document["layers"]["map"]["max_error"] == 0
    outcome = command("compare", tmp_path / "a.onnx", tmp_path / "small.onnx", "--frames", folder)
    assert outcome.code == 2
    assert "map is (1, 1, 48, 64) in A and (1, 1, 24, 32) in B" in outcome.err


STREAM = str(SHIPPED / "stream.fp32.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["skd-64:int4", "skd-64"], "unknown precision 'int4'"),
        (["skd-65", "skd-64"], "no release 'skd-65'"),
        (["skd-64@cpu", "skd-64"], "unknown backend 'cpu' for skd-64; expected one of onnxruntime, tensorrt"),
        (["skd-64", "missing.onnx"], "no graph missing.onnx"),
        (["skd-64", "{tmp}/text.onnx"], "text.onnx is not an ONNX file"),
        ([STREAM, STREAM], "compare it with its release"),
        (["skd-64", "skd-64", "--form", "pair"], "has no fp32 graph in pair form"),
        (["skd-64", "skd-64", "--picture", "{tmp}/x.jpg"], "expected a name ending in .png"),
        (["skd-64", "skd-64", "--picture", "/proc/none/x.png"], "cannot write /proc/none/x.png"),
        (["skd-64", "{tmp}/other.onnx", "--layers"], "no inner tensor has the same name"),
        (["{tmp}/open.onnx", "skd-64"], "leaves the layout open: set --layout nchw or nhwc"),
    ],
)
def test_invalid_operand_is_refused_in_one_line(
    command: Command, folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    onnx.save(image_graph([1, 3, 64, 64], [1, 1, 64, 64]), tmp_path / "other.onnx")
    onnx.save(image_graph([1, 4, "H", "W"], [1, 1, "H", "W"]), tmp_path / "open.onnx")
    if "{tmp}/open.onnx" in arguments:
        arguments = ["{tmp}/open.onnx"] * 2
    outcome = command("compare", *(w.format(tmp=tmp_path) for w in arguments), "--frames", folder)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_tensor_difference_accumulates_over_frames() -> None:
    difference = TensorDifference()
    for a, b in (([3.0, 4.0], [3.0, 4.0]), ([0.0, 0.0], [0.0, 0.5])):
        difference.add(np.array(a, np.float32), np.array(b, np.float16))
    assert difference.max_error == 0.5
    assert difference.mean_error == 0.125
    assert difference.sqnr_db == pytest.approx(20.0)  # 25 / 0.25
    assert difference.cc == [1.0]  # only frames on which both vary


def test_tensor_difference_with_an_infinite_value_is_nan() -> None:
    difference = TensorDifference()
    difference.add(np.ones((2, 2)), np.array([[1, np.inf], [1, 1]]))
    assert math.isnan(difference.sqnr_db)
