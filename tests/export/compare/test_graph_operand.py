from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge.release.manifest import SHIPPED_RELEASES
from export.compare.graph_operand import GraphOperand


@pytest.mark.parametrize("name", ["M.ONNX", "me@host/m.onnx", "me@host.onnx", "12:00/m.onnx"])
@pytest.mark.parametrize("backend", ["", "@onnxruntime"])
def test_graph_is_found_whatever_its_name(
    name: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs(Path(name).parent, exist_ok=True)
    Path(name).write_bytes(b"x")
    operand = GraphOperand.parse(name + backend)
    assert (operand.model, operand.backend) == (Path(name), "onnxruntime")


@pytest.mark.parametrize("folder", ["me@host", "12:00", "a@b:c"])
@pytest.mark.parametrize("precision", ["", ":int8"])
def test_release_is_found_whatever_its_name(
    folder: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED_RELEASES / "skd-32", folder)
    operand = GraphOperand.parse(f"{folder}{precision}")
    assert operand.precision == (precision[1:] or "fp32")
    assert operand.model.parent == Path(folder)
