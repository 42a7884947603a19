"""Styles of exporters: the ways in which they write the same network."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

OPSETS = (7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21, 22, 23)
UNLUCKY_NAMES = ("t_dq", "x_q", "t", "x_half", "t_q", "t_scale", "t_dq1", "t_q_dq", "t.float", "t.exact")
"""Names that a conversion may invent."""


@dataclass(frozen=True)
class Style:
    """Ways to write the same network.

    Attributes:
        opset: Opset of the standard operators.
        constants: Weights are "initializers", "inputs" as well, or outputs of Constant nodes ("nodes").
        names: Names of nodes and tensors: "plain", "empty" for nodes, or "unlucky".
        half: "none", "inside" a Cast to float16 and one back, or "all" of the graph.
        is_open: Batch, height and width of the input are open.
        layout: Layout of the input.
        has_stale_shapes: `value_info` has the shapes of another input.
        writes_empty_names: A missing bias is written as an empty name.
    """

    opset: int = 20
    constants: str = "initializers"
    names: str = "plain"
    half: str = "none"
    is_open: bool = False
    layout: str = "nchw"
    has_stale_shapes: bool = False
    writes_empty_names: bool = False


STYLES = st.builds(
    Style,
    opset=st.sampled_from(OPSETS),
    constants=st.sampled_from(["initializers", "inputs", "nodes"]),
    names=st.sampled_from(["plain", "empty", "unlucky"]),
    half=st.sampled_from(["none", "none", "inside", "all"]),
    is_open=st.booleans(),
    layout=st.sampled_from(["nchw", "nhwc"]),
    has_stale_shapes=st.booleans(),
    writes_empty_names=st.booleans(),
)
