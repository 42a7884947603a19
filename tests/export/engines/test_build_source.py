"""Tests of engines of a calibrated ONNX file: built like those of a release, or the refused node is named."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edge.core.atomic_files import sha256
from edge.inference.tensorrt.engine_identity import EngineIdentity
from export.graphs.calibrated_folder import CALIBRATION_FILE
from tests.conftest import Outcome
from tests.support.onnx_graphs import residual_network

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT for RTX is not installed: pip install 'aerogaze[rtx]'",
)
Command = Callable[..., Outcome]


def write_calibrated(folder: Path, model: onnx.ModelProto) -> Path:
    """Write a folder as `calibrate` does, with the same graph as fp32 and as int8."""
    folder.mkdir()
    names = ("fp32.onnx", "int8.onnxruntime.onnx", "int8.tensorrt.onnx")
    for name in names:
        (folder / name).write_bytes(model.SerializeToString())
    files = {name: {"sha256": sha256(folder / name), "size_bytes": 1} for name in names}
    document = {"schema": 1, "name": "net", "input": {}, "output": "y", "files": files}
    (folder / CALIBRATION_FILE).write_text(json.dumps(document))
    return folder


def determinant() -> onnx.ModelProto:
    """Return a graph with an operator that TensorRT does not support."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Det", ["x"], ["d"], name="det"), helper.make_node("Relu", ["d"], ["y"])]
    images = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    graph = helper.make_graph(nodes, "det", images, [value("y", TensorProto.FLOAT, [1, 3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@needs_rtx
def test_engines_of_a_calibrated_graph_are_built_and_checked_and_kept(
    tmp_path: Path, command: Command
) -> None:
    net = write_calibrated(tmp_path / "net", residual_network())
    arguments = ["build", net, "--target", "rtx"]
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1].endswith("@rtx --frames SOURCE, where the GPU is")
    folder = net / "engines" / "rtx"
    identities = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [i["graph"] for i in identities] == ["fp32.onnx", "int8.tensorrt.onnx"]
    assert all(i["onnx_sha256"] == sha256(net / i["graph"]) for i in identities)
    assert "nothing to build" in command(*arguments).out
    assert command(*arguments, "--check").code == 0
    net.joinpath("fp32.onnx").write_bytes(b"other")
    outcome = command(*arguments)
    assert outcome.code == 2
    assert "fp32.onnx is not the file that was written (its hash differs)" in outcome.err


@needs_rtx
def test_node_that_tensorrt_refuses_is_named(tmp_path: Path, command: Command) -> None:
    outcome = command("build", write_calibrated(tmp_path / "net", determinant()), "--target", "rtx")
    assert outcome.code == 2
    assert "fp32.onnx: TensorRT" in outcome.err
    assert "cannot parse the graph: node det, a Det: UNSUPPORTED_NODE" in outcome.err
    assert outcome.err.count("\n") == 1


@needs_rtx
@pytest.mark.usefixtures("fake_timer")
def test_calibrate_warns_of_a_refused_node_before_it_starts(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    net, det = tmp_path / "net.onnx", tmp_path / "det.onnx"
    net.write_bytes(residual_network().SerializeToString())
    det.write_bytes(determinant().SerializeToString())
    options = ["--frames", folder, "--method", "minmax", "--out", tmp_path / "out"]
    outcome = command("calibrate", det, *options)
    assert outcome.code == 0, outcome.err
    warning = outcome.err.splitlines()[0]
    assert warning.startswith("warning: TensorRT cannot parse the graph (node det, a Det: UNSUPPORTED_NODE)")
    assert "TensorRT" not in command("calibrate", net, *options).err
    assert command("build", tmp_path / "out", "--target", "rtx").code == 0
    assert command("calibrate", net, *options).code == 0  # engines of the replaced graphs are deleted
    assert not (tmp_path / "out" / "engines").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "calibration.json cannot be read"),
        ("[]", "calibration.json cannot be read"),
        ('{"schema": 2}', "has schema 2; expected schema 1, which this aerogaze reads"),
        ('{"schema": 1}', "cannot be read (KeyError"),
    ],
)
def test_invalid_calibration_file_is_reported_in_one_line(
    tmp_path: Path, command: Command, text: str, message: str
) -> None:
    (tmp_path / "calibration.json").write_text(text)
    outcome = command("build", tmp_path, "--target", "rtx")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_missing_file_and_single_graph_file_are_refused(tmp_path: Path, command: Command) -> None:
    net = write_calibrated(tmp_path / "net", residual_network())
    shutil.copy(net / "fp32.onnx", tmp_path / "lone.onnx")
    outcome = command("build", tmp_path / "lone.onnx", "--target", "rtx")
    assert "expected a release, or the folder that aerogaze calibrate makes from it" in outcome.err
    (net / "int8.tensorrt.onnx").unlink()
    outcome = command("build", net, "--target", "rtx")
    assert "int8.tensorrt.onnx is missing: copy the whole folder" in outcome.err


@needs_rtx
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or choose another path"),
        (errno.EACCES, "choose a path that can be written"),
    ],
)
def test_write_error_is_reported_with_path_and_remedy(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    net = write_calibrated(tmp_path / "net", residual_network())

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(EngineIdentity, "write", refuse)
    outcome = command("build", net, "--target", "rtx", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err == f"aerogaze: cannot write {tmp_path / 'out'}: {os.strerror(number)}; {remedy}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
