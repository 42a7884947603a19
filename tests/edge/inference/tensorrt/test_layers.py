"""Layers in the formats of TensorRT 10 and 11, as in their documentation."""

from __future__ import annotations

import json

import pytest

from edge.inference.tensorrt.layers import read_layers

CONV = "conv1 + relu1"
REFORMAT = "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1"
MYELIN = "__myl_MaxrMul_myl0_3"
TIMES = {REFORMAT: [9.0, 0.1, 0.3, 0.2], CONV: [9.0, 1.0, 3.0, 2.0], MYELIN: [9.0, 0.5, 0.5, 0.5]}


def inspected(half: dict[str, str], int8: dict[str, str]) -> str:
    layers = [
        {"Name": REFORMAT, "LayerType": "Reformat", "Outputs": [half], "Metadata": ""},
        {"Name": CONV, "LayerType": "CaskConvolution", "Outputs": [int8], "Metadata": ""},
        {
            "Name": MYELIN,
            "LayerType": "kgen",
            "Outputs": [half],
            "Metadata": "[ONNX Layer: pool]\u001e[ONNX Layer: scale]",
        },
    ]
    return json.dumps({"Layers": layers})


@pytest.mark.parametrize(
    ("half", "int8"),
    [
        (
            {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"},
            {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
        ),
        ({"DataType": "Half", "Format": "kLINEAR"}, {"DataType": "Int8", "Format": "kCHW32"}),
    ],
    ids=["10", "11"],
)
def test_layers_have_nodes_precision_and_kind(half: dict[str, str], int8: dict[str, str]) -> None:
    reformat, conv, myelin = read_layers(TIMES, inspected(half, int8), warm=1)
    assert (reformat.kind, reformat.precision, reformat.ms) == ("reformat", "fp16", 0.2)
    assert (conv.kind, conv.precision, conv.ms) == ("compute", "int8", 2.0)
    assert conv.nodes == ("conv1", "relu1")
    assert myelin.nodes == ("pool", "scale")


def test_layers_of_an_engine_without_details_have_only_names() -> None:
    layers = read_layers(TIMES, json.dumps({"Layers": list(TIMES)}), warm=1)
    assert [layer.kind for layer in layers] == ["reformat", "compute", "compute"]
    assert {layer.precision for layer in layers} == {"-"}
    assert layers[1].nodes == ("conv1", "relu1")
