"""Nodes of an ONNX file that is written by hand."""

from __future__ import annotations

from pathlib import Path

from edge.core.protobuf_wire import encode_field
from edge.release.onnx_graph import OnnxNode, read_onnx_graph


def test_node_without_a_name_has_that_of_its_first_output_that_is_not_left_out(tmp_path: Path) -> None:
    node = encode_field(1, "x") + encode_field(2, "") + encode_field(2, "state") + encode_field(4, "GRU")
    path = tmp_path / "graph.onnx"
    path.write_bytes(encode_field(7, encode_field(1, node)))
    assert read_onnx_graph(path).nodes == [OnnxNode("state", "GRU", ("x",), ("", "state"))]
