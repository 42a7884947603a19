from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2

from calibration.quantization.qdq_placement import CPU, quantisable
from tests.calibration.quantization.test_qdq_placement import residual
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_a_releases_layers_as_table_picture_and_json(folder: Path, tmp_path: Path, command: Command) -> None:
    picture = tmp_path / "layers.png"
    outcome = command("sensitivity", "skd-64", "--frames", folder, "--plot", picture)
    assert outcome.code == 0, outcome.err
    rows = [line for line in outcome.out.splitlines() if "node_conv2d_" in line]
    assert len(rows) == 11
    assert max(map(len, outcome.out.splitlines()[:17])) <= 80
    assert "…" not in "".join(rows)
    image = cv2.imread(str(picture))
    assert image is not None
    assert image.shape[1] == 1200
    outcome = command("sensitivity", "skd-64", "--frames", folder, "--json", "--engine", "onnxruntime")
    found = json.loads(outcome.out)
    assert found["whole"]["cc"] > 0.99
    assert {*found["layers"][0]["alone"]} == {"sqnr_db", "cc", "kld"}


def test_anybodys_graph_and_what_cannot_be_written(folder: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(residual().SerializeToString())
    outcome = command("sensitivity", path, "--frames", folder, "--json", "--engine", "onnxruntime")
    assert outcome.code == 0, outcome.err
    assert [layer["layer"] for layer in json.loads(outcome.out)["layers"]] == quantisable(residual(), CPU)
    outcome = command("sensitivity", path, "--frames", folder, "--plot", path / "layers.png")
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert outcome.err.count("\n") == 1
