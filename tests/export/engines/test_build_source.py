"""Engines of anybody's graph: what `calibrate` wrote is built as a release is, or refused by the node."""

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
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
Command = Callable[..., Outcome]


def written(folder: Path, model: onnx.ModelProto) -> Path:
    """Return a folder as `calibrate` writes it, with a graph in fp32 and, the same here, in int8."""
    folder.mkdir()
    names = ("fp32.onnx", "int8.onnxruntime.onnx", "int8.tensorrt.onnx")
    for name in names:
        (folder / name).write_bytes(model.SerializeToString())
    files = {name: {"sha256": sha256(folder / name), "size_bytes": 1} for name in names}
    told = {"schema": 1, "name": "net", "input": {}, "output": "y", "files": files}
    (folder / CALIBRATION_FILE).write_text(json.dumps(told))
    return folder


def determinant() -> onnx.ModelProto:
    """Return a graph with an operator that TensorRT does not know."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Det", ["x"], ["d"], name="det"), helper.make_node("Relu", ["d"], ["y"])]
    images = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    graph = helper.make_graph(nodes, "det", images, [value("y", TensorProto.FLOAT, [1, 3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@needs_rtx
def test_what_calibrate_wrote_is_built_checked_and_kept(tmp_path: Path, command: Command) -> None:
    place = written(tmp_path / "net", residual_network())
    words = ["build", place, "--target", "rtx"]
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    folder = place / "engines" / "rtx"
    identities = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [i["graph"] for i in identities] == ["fp32.onnx", "int8.tensorrt.onnx"]
    assert all(i["onnx_sha256"] == sha256(place / i["graph"]) for i in identities)
    assert "nothing to build" in command(*words).out
    assert command(*words, "--check").code == 0
    place.joinpath("fp32.onnx").write_bytes(b"other")
    outcome = command(*words)
    assert outcome.code == 2
    assert "fp32.onnx is not the file that was written (its hash differs)" in outcome.err


@needs_rtx
def test_a_refused_node_is_named(tmp_path: Path, command: Command) -> None:
    outcome = command("build", written(tmp_path / "net", determinant()), "--target", "rtx")
    assert outcome.code == 2
    assert "fp32.onnx: TensorRT" in outcome.err
    assert "cannot parse the graph: node det, a Det: UNSUPPORTED_NODE" in outcome.err
    assert outcome.err.count("\n") == 1


@needs_rtx
@pytest.mark.usefixtures("quick")
def test_calibrate_tells_of_it_before_the_work(folder: Path, tmp_path: Path, command: Command) -> None:
    net, det = tmp_path / "net.onnx", tmp_path / "det.onnx"
    net.write_bytes(residual_network().SerializeToString())
    det.write_bytes(determinant().SerializeToString())
    ends = ["--frames", folder, "--method", "minmax", "--out", tmp_path / "out"]
    outcome = command("calibrate", det, *ends)
    assert outcome.code == 0, outcome.err
    told = outcome.err.splitlines()[0]
    assert told.startswith("warning: TensorRT cannot parse the graph (node det, a Det: UNSUPPORTED_NODE)")
    assert "TensorRT" not in command("calibrate", net, *ends).err
    assert command("build", tmp_path / "out", "--target", "rtx").code == 0
    assert command("calibrate", net, *ends).code == 0  # engines of older graphs go with them
    assert not (tmp_path / "out" / "engines").exists()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "calibration.json cannot be read"),
        ("[]", "calibration.json cannot be read"),
        ('{"schema": 2}', "has schema 2; this aerogaze reads schema 1"),
        ('{"schema": 1}', "cannot be read (KeyError"),
    ],
)
def test_a_spoilt_result_is_one_clear_line(tmp_path: Path, command: Command, told: str, message: str) -> None:
    (tmp_path / "calibration.json").write_text(told)
    outcome = command("build", tmp_path, "--target", "rtx")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_missing_file_and_a_lone_graph_are_told(tmp_path: Path, command: Command) -> None:
    place = written(tmp_path / "net", residual_network())
    shutil.copy(place / "fp32.onnx", tmp_path / "lone.onnx")
    outcome = command("build", tmp_path / "lone.onnx", "--target", "rtx")
    assert "expected a release, or the folder that aerogaze calibrate makes of it" in outcome.err
    (place / "int8.tensorrt.onnx").unlink()
    outcome = command("build", place, "--target", "rtx")
    assert "int8.tensorrt.onnx is missing: copy the folder whole" in outcome.err


@needs_rtx
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or choose another path"),
        (errno.EACCES, "choose a path that can be written"),
    ],
)
def test_a_full_disk_is_told_with_place_and_remedy(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    place = written(tmp_path / "net", residual_network())

    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(EngineIdentity, "write", refuse)
    outcome = command("build", place, "--target", "rtx", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err == f"aerogaze: cannot write {tmp_path / 'out'}: {os.strerror(number)}; {remedy}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
