"""Every graph compiles with NVIDIA's own builder, GPU or not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from calibration.frames import CalibrationFrames
from edge.errors import InputError
from edge.tensorrt_api import build_plan, load_tensorrt
from export.make import make_release
from tests.conftest import Outcome
from trainer.models.student import Student

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


@needs_rtx
def test_every_graph_of_a_release_compiles(
    student: Student, footage: CalibrationFrames, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    make_release(student, footage, tmp_path / "r")
    outcome = command("build", tmp_path / "r", "--target", "rtx")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "r" / "engines" / "rtx"
    index = json.loads((folder / "engines.json").read_text())
    assert len(index["engines"]) == 6
    for engine in index["engines"]:
        assert (folder / engine["file"]).stat().st_size == engine["size_bytes"] > 100_000
        assert engine["tensorrt"].startswith("rtx ")
        assert engine["graph"] in outcome.out.replace("\n", "")


@needs_rtx
def test_a_graph_that_tensorrt_refuses_is_told_in_its_words() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("StringNormalizer", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "words",
        [value("x", TensorProto.STRING, [1])],
        [value("y", TensorProto.STRING, [1])],
    )
    with pytest.raises(InputError, match=r"TensorRT .* cannot parse the graph"):
        build_plan(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString(),
            "rtx",
        )
    with pytest.raises(InputError, match="cannot parse"):
        build_plan(b"not a graph", "rtx")


def test_a_tensorrt_that_is_missing_is_named_with_the_remedy() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(InputError, match="comes with JetPack"):
        load_tensorrt("tensorrt")
