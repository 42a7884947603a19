"""Conversion of a graph to float16. Frames and maps stay float32."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from calibration.inputs.graph_inputs import InputFeeder
from calibration.quantization.fp16_emulation import FP16_MAX
from calibration.quantization.qdq import sort_nodes
from edge.core.errors import InputError
from export.graphs.graph_end import map_making_nodes


def to_fp16(model: onnx.ModelProto, float32_names: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in float16.

    Also converts graphs with Q/DQ (opset 19 and above): their layers outside int8 and their scales become
    float16. Operators without a float16 type stay in float32, and so does the Softmax or Sigmoid at
    the end.

    Args:
        model: The fp32 graph.
        float32_names: Inputs and outputs that stay float32.

    Raises:
        InputError: The graph cannot be converted.
    """
    float32_nodes = map_making_nodes(model)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    # The converter infers types itself. It would take a constant that is listed here, such as the scales of
    # Resize, for an activation, and cast it.
    del copied.graph.value_info[:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for each weight that float16 rounds to 0
            fp16: onnx.ModelProto = convert_float_to_float16(
                copied,
                max_finite_val=FP16_MAX,  # the default clips constants at 10,000
                keep_io_types=list(float32_names),
                op_block_list=_operators_without_fp16(model),
                node_block_list=float32_nodes,
            )
        _remove_round_trips(fp16.graph, set(float32_nodes))
        sort_nodes(fp16.graph)
        onnx.checker.check_model(fp16, full_check=True)
    except Exception as error:  # the converter raises exceptions without a common base class
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the graph cannot be converted to float16 ({reason}); expected operators that support it: "
            "use it in fp32"
        ) from None
    return fp16


def _remove_round_trips(graph: onnx.GraphProto, float32_nodes: set[str]) -> None:
    """Remove the casts to float16 and back that the converter puts behind each node that stays in float32."""
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    for back in [node for node in graph.node if node.op_type == "Cast"]:
        there = producers.get(back.input[0])
        made_by = producers.get(there.input[0]) if there is not None and there.op_type == "Cast" else None
        if there is None or made_by is None or made_by.name not in float32_nodes:
            continue
        old, new = back.output[0], there.input[0]
        if old in outputs:  # the output keeps its name
            old, new = new, old
            made_by.output[list(made_by.output).index(old)] = new
            producers[new] = made_by
        graph.node.remove(back)
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
    read = {name for node in graph.node for name in node.input} | outputs
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]:
        graph.node.remove(node)


def float_outputs(model: onnx.ModelProto, feeder: InputFeeder) -> list[str]:
    """Return the outputs that stay float32 in an fp16 graph: all except states."""
    states = {state.output for state in feeder.states}
    return [output.name for output in model.graph.output if output.name not in states]


def _operators_without_fp16(model: onnx.ModelProto) -> list[str]:
    """Return the operators of the graph that accept float32 but not float16, such as Range."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    operators = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset)
        types = {name for constraint in schema.type_constraints for name in constraint.allowed_type_strs}
        if "tensor(float)" in types and "tensor(float16)" not in types:
            operators.add(node.op_type)
    return sorted(operators)
