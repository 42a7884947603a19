"""Tests of `aerogaze sensitivity`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2

from calibration.quantization.qdq_placement import CPU, quantizable_layers
from tests.conftest import Outcome
from tests.support.onnx_graphs import residual_network

Command = Callable[..., Outcome]


def test_layers_of_a_release_are_shown_as_table_plot_and_json(
    folder: Path, tmp_path: Path, command: Command
) -> None:
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
    result = json.loads(outcome.out)
    assert result["whole"]["cc"] > 0.99
    assert {*result["layers"][0]["alone"]} == {"sqnr_db", "cc", "kld"}


def test_onnx_file_is_measured_and_an_unwritable_plot_rejected(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(residual_network().SerializeToString())
    outcome = command("sensitivity", path, "--frames", folder, "--json", "--engine", "onnxruntime")
    assert outcome.code == 0, outcome.err
    assert [layer["layer"] for layer in json.loads(outcome.out)["layers"]] == quantizable_layers(
        residual_network(), CPU
    )
    outcome = command("sensitivity", path, "--frames", folder, "--plot", path / "layers.png")
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert outcome.err.count("\n") == 1
