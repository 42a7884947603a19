"""Two graphs on the same frames: numbers, layers, gates, picture, and what cannot be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.calibration_frames import CalibrationFrames
from edge.inference.saliency_model import SaliencyModel, compute_clip_maps
from edge.metrics.saliency import MOST_DB, cc, kld
from edge.release.manifest import DEFAULT_RELEASE, SHIPPED_RELEASES
from edge.sources.factory import open_source
from export.compare.compare import TensorDifference, match_layers
from export.release.builder import make_release
from tests.conftest import Outcome
from tests.export.conftest import FAST
from trainer.models.student import Student

Command = Callable[..., Outcome]
SHIPPED = SHIPPED_RELEASES / DEFAULT_RELEASE


def told(outcome: Outcome) -> dict:  # type: ignore[type-arg]
    assert outcome.code == 0, outcome.err
    document: dict = json.loads(outcome.out)  # type: ignore[type-arg]
    return document


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_finds_what_the_maps_of_a_run_show(command: Command, folder: Path, precision: str) -> None:
    found = told(command("compare", "skd-64:fp32", f"skd-64:{precision}", "--frames", folder, "--json"))
    frames = np.stack([frame.image for frame in open_source(str(folder))])
    a, b = (compute_clip_maps(SaliencyModel(None, p), frames) for p in ("fp32", precision))
    ccs = [cc(x, y) for x, y in zip(a, b, strict=True)]
    expected = {
        "max_error": np.abs(a - b).max(),
        "mean_error": np.abs(a - b).mean(),
        "sqnr_db": 10 * math.log10((a.astype(float) ** 2).sum() / ((a.astype(float) - b) ** 2).sum()),
        "cc": np.mean(ccs),
        "least_cc": min(ccs),
        "kld": np.mean([kld(y, x) for x, y in zip(a, b, strict=True)]),
    }
    assert found["frames"] == 12
    assert found["outputs"]["saliency"] == pytest.approx(expected, rel=1e-3)
    assert found["worst_frame"] == int(np.argmin(ccs))
    assert 0 < found["outputs"]["features_out"]["kld"] < 0.1


def test_a_graph_is_like_itself(command: Command, folder: Path) -> None:
    found = told(command("compare", "skd-64:int8", "skd-64:int8", "--frames", folder, "--json"))
    same = {"max_error": 0, "mean_error": 0, "sqnr_db": MOST_DB, "cc": 1, "least_cc": 1}
    for summary in found["outputs"].values():
        assert {name: summary[name] for name in same} == same


def spoilt(place: Path, weight: str) -> Path:
    """Return the shipped fp32 graph with one convolution's weights turned round."""
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    onnx.save(model, place)
    return place


def test_the_layer_that_diverges_first_is_named(command: Command, folder: Path, tmp_path: Path) -> None:
    other = spoilt(tmp_path / "other.onnx", "network.spatial.0.0.weight")
    words = ["compare", "skd-64", other, "--frames", folder, "--layers"]
    found = told(command(*words, "--json"))
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    node = next(n for n in model.graph.node if "network.spatial.0.0.weight" in n.input)
    assert found["first_diverging"] == node.output[0]
    order = list(found["layers"])
    before = order[: order.index(node.output[0])]
    temporal = [name for name in before if found["layers"][name]["sqnr_db"] < MOST_DB]
    assert temporal == []
    klds = [layer["kld"] for layer in found["layers"].values()]
    assert all(value == pytest.approx(0, abs=1e-6) for value in klds[: len(before)])
    assert klds[len(before)] > 0.001
    outcome = command(*words)
    assert f"first layer below 20 dB: {node.output[0]}" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    found = told(command("compare", "skd-64", "skd-64:fp16", "--frames", folder, "--layers", "--json"))
    assert found["first_diverging"] is None


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_layers_are_matched_through_rounding(engine: str) -> None:
    plain = onnx.load(SHIPPED / "stream.fp32.onnx")
    rounded = onnx.load(SHIPPED / f"stream.int8.{engine}.onnx")
    layers = match_layers(plain, rounded)
    names = [output for node in plain.graph.node for output in node.output]
    assert [layer.name for layer in layers] == names  # every one, in order
    makers = {output: node.op_type for node in rounded.graph.node for output in node.output}
    through = {layer.name for layer in layers if makers[layer.b] == "DequantizeLinear"}
    quantised = {n.input[0] for n in rounded.graph.node if n.op_type == "QuantizeLinear"}
    assert through == {name.removesuffix("_plain") for name in quantised} - {"features"}
    assert {layer.a for layer in layers} == set(names)


def test_the_worst_frame_is_drawn(command: Command, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "worst.png"
    words = ["skd-64:fp32", "skd-64:int8", "--frames", folder, "--picture", place]
    outcome = command("compare", *words)
    assert outcome.code == 0, outcome.err
    assert f"wrote {place}" in outcome.out.replace("\n", "")
    image = cv2.imread(str(place))
    assert image is not None
    assert image.shape[1] > 1000
    assert image.std() > 20


@pytest.mark.parametrize(
    ("gate", "code", "says"),
    [
        (["--min-cc", "0.99"], 0, ""),
        (["--max-error", "0.5"], 0, ""),
        (["--min-cc", "0.99999"], 1, "mean CC is 0.99"),
        (["--max-error", "0.0001"], 1, "the gate is at most 0.0001"),
    ],
)
def test_gates(command: Command, folder: Path, gate: list[str], code: int, says: str) -> None:
    outcome = command("compare", "skd-64:fp32", "skd-64:int8", "--frames", folder, *gate)
    assert outcome.code == code
    assert says in outcome.err
    assert outcome.err.count("\n") == code


def test_a_graph_that_gives_nan_passes_no_gate(command: Command, folder: Path, tmp_path: Path) -> None:
    model = onnx.load(SHIPPED / "stream.fp32.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "network.spatial.0.0.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.nan, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    words = ["compare", "skd-64", tmp_path / "nan.onnx", "--frames", folder, "--max-frames", "3"]
    found = told(command(*words, "--json"))
    assert found["outputs"]["saliency"]["max_error"] is None
    for gate in (["--min-cc", "0.1"], ["--max-error", "100"]):
        outcome = command(*words, *gate)
        assert outcome.code == 1
        assert "NaN" in outcome.err


def test_pairs_and_students_that_look_ahead(
    student: Student, footage: CalibrationFrames, tmp_path: Path, folder: Path, command: Command
) -> None:
    """The stream's maps are those of the pair form, whichever neighbour the student takes."""
    make_release(student, footage, tmp_path / "r", options=FAST)
    ends = ["--frames", folder, "--json"]
    place = tmp_path / "r"
    found = told(command("compare", f"{place}:fp32", f"{place}:int8", "--form", "pair", *ends))
    assert found["frames"] == 12 - student.settings.delay_frames
    assert found["outputs"]["saliency"]["cc"] > 0.98
    found = told(command("compare", place, place / "pair.fp32.onnx", *ends))
    assert found["outputs"]["saliency"]["max_error"] < 1e-5


def image_graph(shape: list[int | str], output: list[int | str]) -> onnx.ModelProto:
    """Return a graph that takes an image's mean over its colours."""
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


def test_two_graphs_of_others_are_compared(command: Command, folder: Path, tmp_path: Path) -> None:
    onnx.save(image_graph([1, 3, 48, 64], [1, 1, 48, 64]), tmp_path / "a.onnx")
    onnx.save(image_graph([1, 3, 24, 32], [1, 1, 24, 32]), tmp_path / "small.onnx")
    found = told(command("compare", *[tmp_path / "a.onnx"] * 2, "--frames", folder, "--layers", "--json"))
    assert found["saliency"] == "map"
    assert found["fed"][0]["scale"] == [1 / 255]
    assert found["layers"]["map"]["max_error"] == 0
    outcome = command("compare", tmp_path / "a.onnx", tmp_path / "small.onnx", "--frames", folder)
    assert outcome.code == 2
    assert "map is (1, 1, 48, 64) in A and (1, 1, 24, 32) in B" in outcome.err


STREAM = str(SHIPPED / "stream.fp32.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["skd-64:int4", "skd-64"], "unknown precision 'int4'"),
        (["skd-65", "skd-64"], "no release 'skd-65'"),
        (["skd-64@cpu", "skd-64"], "no place 'cpu' to run skd-64; expected one of onnxruntime, tensorrt"),
        (["skd-64", "missing.onnx"], "no graph missing.onnx"),
        (["skd-64", "{tmp}/text.onnx"], "text.onnx is no ONNX file"),
        ([STREAM, STREAM], "compare it beside its release"),
        (["skd-64", "skd-64", "--form", "pair"], "has no fp32 graph in pair form"),
        (["skd-64", "skd-64", "--picture", "{tmp}/x.jpg"], "expected a name ending in .png"),
        (["skd-64", "skd-64", "--picture", "/proc/none/x.png"], "cannot write /proc/none/x.png"),
        (["skd-64", "{tmp}/other.onnx", "--layers"], "no tensor inside has the same name"),
        (["{tmp}/open.onnx", "skd-64"], "leaves the layout open: say --layout nchw or nhwc"),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Command, folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    onnx.save(image_graph([1, 3, 64, 64], [1, 1, 64, 64]), tmp_path / "other.onnx")
    onnx.save(image_graph([1, 4, "H", "W"], [1, 1, "H", "W"]), tmp_path / "open.onnx")
    if "{tmp}/open.onnx" in words:
        words = ["{tmp}/open.onnx"] * 2
    outcome = command("compare", *(w.format(tmp=tmp_path) for w in words), "--frames", folder)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_tally_is_of_all_frames() -> None:
    tally = TensorDifference()
    for a, b in (([3.0, 4.0], [3.0, 4.0]), ([0.0, 0.0], [0.0, 0.5])):
        tally.add(np.array(a, np.float32), np.array(b, np.float16))
    assert tally.max_error == 0.5
    assert tally.mean_error == 0.125
    assert tally.sqnr_db == pytest.approx(20.0)  # 25 / .25
    assert tally.cc == [1.0]  # of what varies


def test_an_infinite_value_is_no_signal_to_compare() -> None:
    tally = TensorDifference()
    tally.add(np.ones((2, 2)), np.array([[1, np.inf], [1, 1]]))
    assert math.isnan(tally.sqnr_db)
