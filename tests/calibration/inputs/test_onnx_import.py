"""The gate for anybody's ONNX file: what comes through, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.inputs import distribution_shift
from calibration.inputs.graph_inputs import open_session
from calibration.inputs.onnx_import import TARGET_OPSET, ImageInput, import_graph
from edge.core.errors import InputError
from tests.calibration.quantization.test_qdq_placement import residual

Change = Callable[[onnx.ModelProto], None]


def saved(path: Path, change: Change = lambda model: None, model: onnx.ModelProto | None = None) -> Path:
    model = model or residual()
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


def operator(kind: str, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[1]
        node.op_type, node.domain = kind, domain
        model.opset_import.append(helper.make_opsetid(domain, 1)) if domain else None

    return change


def dtype(kind: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def more_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))


def outside(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def broken(model: onnx.ModelProto) -> None:
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.flat[0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, model.graph.initializer[0].name))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (opset(6), {}, "opset 6, which is too old; expected 7 to 23"),
        (opset(99), {}, "opset 99, which is too new"),
        (operator("Swoosh"), {}, "node x1 is a Swoosh, unknown to opset 20"),
        (operator("Gelu", "com.microsoft"), {}, "node x1 is a Gelu, of com.microsoft"),
        (operator("QuantizeLinear"), {}, "the graph is quantised; expected a float one"),
        (dtype(TensorProto.UINT8), {}, "input x is uint8; expected float32"),
        (dtype(TensorProto.FLOAT16), {}, "input x is float16; expected float32"),
        (more_inputs, {}, "has 2 inputs (x, z); expected one, an image"),
        (dims(1, 3, 16), {}, "has shape (1, 3, 16); expected an image"),
        (dims(4, 3, 16, 16), {}, "has a batch of 4; expected 1 or a dynamic one"),
        (dims(1, 3, 16, 3), {}, "leaves the layout open: say --layout"),
        (dims(1, 5, 16, 16), {}, "leaves the layout open: say --layout"),
        (
            dims(1, 3, 16, 16),
            {"layout": "nhwc"},
            "is no image in nhwc; expected 1 or 3 channels: it fits nchw",
        ),
        (dims("n", 3, "h", "w"), {}, "of open size; say which: --size WIDTHxHEIGHT"),
        (dims(1, 3, 16, 16), {"size": (32, 16)}, "--size is 32x16; "),
        (dims(1, 3, 16, 16), {"scale": (1.0, 2.0)}, "--scale has 2 numbers; expected 1, or one for each"),
        (dims(1, 3, 16, 16), {"output": "z"}, "has no output 'z'; expected one of y"),
        (outside("../w.bin"), {}, "the data of stem.w lies at '../w.bin', outside the file's folder"),
        (outside("/etc/passwd"), {}, "lies at '/etc/passwd', outside the file's folder"),
        (outside("w.bin"), {}, "the data of stem.w is missing, expected at "),
        (broken, {}, "weight stem.w is not finite"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: Change, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        import_graph(saved(tmp_path / "m.onnx", change), **options)
    assert message in str(error.value)


def test_no_graph_and_too_large_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(InputError, match="no file"):
        import_graph(path)
    for data in (b"", b"not a graph", residual().SerializeToString()[:-100]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is no ONNX file"):
            import_graph(path)
    with path.open("wb") as file:
        file.truncate(2**31 + 5)
    with pytest.raises(InputError, match=r"has 2\.00 GiB with its weights; expected at most 2 GiB"):
        import_graph(path)
    saved(path, outside("w.bin"))
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(InputError, match=r"has 4\.00 GiB with its weights"):
        import_graph(path)


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    assert (tmp_path / "w.bin").is_file()
    expected = saved(tmp_path / "whole.onnx")
    frame = np.random.default_rng(0).integers(0, 256, (1, 20, 30, 3), np.uint8)
    results = []
    for path in (tmp_path / "m.onnx", expected):
        user = import_graph(path)
        results.append(user.feeder.run(open_session(user.model), frame))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("version", [13, 17, 20, 21])
@pytest.mark.parametrize("nhwc", [False, True])
def test_any_opset_layout_and_batch_norm_come_through(tmp_path: Path, version: int, nhwc: bool) -> None:
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
    path = saved(tmp_path / "m.onnx", model=model)
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


def test_a_grey_input() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:, :, 1] = 100  # green
    assert ImageInput(4, 2, 1, "nchw")(frame).shape == (1, 1, 2, 4)
    assert ImageInput(4, 2, 1, "nchw", scale=(1.0,))(frame).max() == pytest.approx(59, abs=1)
    assert ImageInput(4, 2, 3, "nhwc")(frame).shape == (1, 2, 4, 3)


def test_frames_unlike_the_training_data_are_told() -> None:
    """The shipped student on made flights, and on noise."""
    from edge.release.manifest import load_release
    from edge.simulation.world import World
    from export.release.recalibrate import release_feeding

    release = load_release()
    model = onnx.load(release.path(release.graph("fp32")))
    feeder, statistics = (
        release_feeding(release, "stream"),
        distribution_shift.load_statistics(release.folder / distribution_shift.STATISTICS_FILE),
    )
    made = np.stack(
        [
            np.stack([release.preprocessing.resize(World(seed, 256, 144).frame(i).image) for i in (4, 5)])
            for seed in range(6)
        ]
    )
    noise = np.random.default_rng(0).integers(0, 256, made.shape, np.uint8)
    known, unknown = (
        distribution_shift.measure_shift(model, feeder, windows, statistics) for windows in (made, noise)
    )
    assert known is not None
    assert unknown is not None
    assert known < 0.25 < 2 < unknown
    assert distribution_shift.shift_warning(known) is None
    assert "unlike the training data" in str(distribution_shift.shift_warning(unknown))
    assert distribution_shift.measure_shift(model, feeder, made, {}) is None
    assert distribution_shift.shift_warning(None) is None
