"""Tests of the import of ONNX files: which ones are accepted, and the errors for the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs.graph_inputs import open_session
from calibration.inputs.onnx_import import TARGET_OPSET, ImageInput, import_graph
from edge.core.errors import InputError
from tests.support.onnx_graphs import residual_network

Change = Callable[[onnx.ModelProto], None]


def save_model(path: Path, change: Change = lambda model: None, model: onnx.ModelProto | None = None) -> Path:
    model = model or residual_network()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def dims(*sides: int | str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, sides))

    return change


def opset(version: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def operator(op_type: str, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[1]
        node.op_type, node.domain = op_type, domain
        model.opset_import.append(helper.make_opsetid(domain, 1)) if domain else None

    return change


def dtype(kind: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))


def external_data(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def weight_with(value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        weight = numpy_helper.to_array(tensor).copy()
        weight.flat[0] = value
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (opset(6), {}, "opset 6, which is too old; expected 7 to 23"),
        (opset(99), {}, "opset 99, which is too new"),
        (operator("Swoosh"), {}, "node x1 is a Swoosh, unknown to opset 20"),
        (operator("Gelu", "com.microsoft"), {}, "node x1 is a Gelu, of com.microsoft"),
        (operator("QuantizeLinear"), {}, "the graph is quantized; expected a float graph"),
        (dtype(TensorProto.UINT8), {}, "input x is uint8; expected float32"),
        (dtype(TensorProto.INT32), {}, "input x is int32; expected float32"),
        (second_input, {}, "has 2 inputs (x, z); expected one, an image"),
        (dims(1, 3, 16), {}, "has shape (1, 3, 16); expected an image"),
        (dims(4, 3, 16, 16), {}, "has a batch of 4; expected 1 or a dynamic one"),
        (dims(1, 3, 16, 3), {}, "leaves the layout open: set --layout"),
        (dims(1, 5, 16, 16), {}, "leaves the layout open: set --layout"),
        (
            dims(1, 3, 16, 16),
            {"layout": "nhwc"},
            "is not an image in nhwc; expected 1 or 3 channels: it fits nchw",
        ),
        (dims("n", 3, "h", "w"), {}, "of open size; set it: --size WIDTHxHEIGHT"),
        (dims(1, 3, 16, 16), {"size": (32, 16)}, "--size is 32x16; "),
        (dims(1, 3, 16, 16), {"scale": (1.0, 2.0)}, "--scale has 2 numbers; expected 1, or one for each"),
        (dims(1, 3, 16, 16), {"output": "z"}, "has no output 'z'; expected one of y"),
        (external_data("../w.bin"), {}, "the data of stem.w lies at '../w.bin', outside the file's folder"),
        (external_data("/etc/passwd"), {}, "lies at '/etc/passwd', outside the file's folder"),
        (external_data("w.bin"), {}, "the data of stem.w is missing, expected at "),
        (weight_with(np.nan), {}, "weight stem.w is not finite"),
        (weight_with(np.inf), {}, "weight stem.w is not finite"),
    ],
)
def test_graph_that_cannot_be_calibrated_is_refused(
    tmp_path: Path, change: Change, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        import_graph(save_model(tmp_path / "m.onnx", change), **options)
    assert message in str(error.value)


def test_file_that_is_missing_or_invalid_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(InputError, match="no file"):
        import_graph(path)
    for data in (b"", b"not a graph", residual_network().SerializeToString()[:-100]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is not an ONNX file"):
            import_graph(path)
    with path.open("wb") as file:
        file.truncate(2**31 + 5)
    with pytest.raises(InputError, match=r"has 2\.00 GiB with its weights; expected at most 2 GiB"):
        import_graph(path)
    save_model(path, external_data("w.bin"))
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(InputError, match=r"has 4\.00 GiB with its weights"):
        import_graph(path)


def test_damaged_names_and_types_are_refused_in_one_line(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    shape = [1, 3, 8, 8]
    for name, kind, message in (
        (b"Re\xfeu", TensorProto.FLOAT, "expected standard ONNX operators"),
        (b"Relu", 38, "input x is of the unknown type 38"),
    ):
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [value("x", kind, shape)],
            [value("y", kind, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"Relu", name))
        with pytest.raises(InputError, match=message) as caught:
            import_graph(tmp_path / "m.onnx")
        assert "\n" not in str(caught.value)


def test_external_data_in_the_same_folder_is_read(tmp_path: Path) -> None:
    onnx.save(
        residual_network(),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="w.bin",
    )
    assert (tmp_path / "w.bin").is_file()
    whole = save_model(tmp_path / "whole.onnx")
    frame = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), np.uint8)
    results = []
    for path in (tmp_path / "m.onnx", whole):
        user = import_graph(path)
        results.append(user.feeder.run(open_session(user.model), frame))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("version", [13, 17, 20, 21])
@pytest.mark.parametrize("nhwc", [False, True])
def test_any_supported_opset_and_layout_is_imported_and_batch_norms_are_folded(
    tmp_path: Path, version: int, nhwc: bool
) -> None:
    """A graph with a batch norm, open batch and size, nodes without names."""
    rng = np.random.default_rng(0)
    named = {
        "w": rng.normal(0, 1, (16, 3, 3, 3)),
        "s": [2.0] * 16,
        "b": [0.5] * 16,
        "m": [0.1] * 16,
        "v": [4.0] * 16,
    }
    weights = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in named.items()]
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        helper.make_node("Conv", ["t" if nhwc else "x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], epsilon=0.0),
        helper.make_node("Sigmoid", ["n"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    shape: list[str | int | None] = ["n", "h", "w", 3] if nhwc else ["n", 3, "h", "w"]
    inputs = [value("x", TensorProto.FLOAT, shape)]
    outputs = [value("y", TensorProto.FLOAT, ["n", 16, "h", "w"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    path = save_model(tmp_path / "m.onnx", model=model)
    user = import_graph(path, size=(24, 16), colour="bgr", scale=(0.1, 0.2, 0.3), offset=(1.0,))
    assert user.model.opset_import[0].version == TARGET_OPSET
    assert "BatchNormalization" not in {node.op_type for node in user.model.graph.node}
    assert all(node.name for node in user.model.graph.node)
    mean, deviation = user.statistics["n"]
    assert mean.tolist() == [0.5] * 16
    assert deviation.tolist() == [2.0] * 16
    frame = rng.integers(0, 256, (16, 24, 3), np.uint8)
    prepared = user.image(frame)
    channels = prepared[0] if nhwc else prepared[0].transpose(1, 2, 0)
    np.testing.assert_allclose(channels, frame * np.array([0.1, 0.2, 0.3]) + 1, rtol=1e-6)
    before, after = (open_session(m).run(["y"], {"x": prepared})[0] for m in (model, user.model))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_frame_is_converted_to_grey_for_one_channel() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:, :, 1] = 100  # green
    assert ImageInput(4, 2, 1, "nchw")(frame).shape == (1, 1, 2, 4)
    assert ImageInput(4, 2, 1, "nchw", scale=(1.0,))(frame).max() == pytest.approx(59, abs=1)
    assert ImageInput(4, 2, 3, "nhwc")(frame).shape == (1, 2, 4, 3)
