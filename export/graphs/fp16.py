"""Conversion of a graph to float16. Frames and maps stay float32.

The types that each operator takes are those of its ONNX schema. A value is float16 wherever the schema
permits it; elsewhere a Cast is put between (NonMaxSuppression takes float32 alone, Resize its scales). The
converter of ONNX Runtime works by lists of operators, and by the names that it invents.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence

import onnx
from onnx import NodeProto, TensorProto, helper
from onnxruntime.transformers.float16 import convert_tensor_float_to_float16

from calibration.inputs.graph_inputs import InputFeeder
from calibration.quantization.fp16_emulation import FP16_MAX
from calibration.quantization.free_names import FreeNames
from edge.core.errors import InputError
from export.graphs.graph_end import map_making_nodes

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
FLOAT_BY_DEFAULT = ("RandomNormal", "RandomUniform", "EyeLike")
"""Operators whose output is float32 if `dtype` is not given."""


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
    try:
        fp16 = _Fp16Conversion(model, set(float32_names)).run()
        onnx.checker.check_model(fp16, full_check=True)
    except Exception as error:  # the exceptions of onnx share no base class
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the graph cannot be converted to float16 ({reason}); expected operators that support it: "
            "use it in fp32"
        ) from None
    return fp16


class _Fp16Conversion:
    """Conversion of one graph."""

    def __init__(self, model: onnx.ModelProto, float32_names: Collection[str]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        del self._graph.value_info[:]  # the types below are inferred from nothing but the nodes
        self._float32_names = float32_names
        self._float32_nodes = set(map_making_nodes(model))
        self._opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self._types = _infer_types(self._model)
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._free_name = FreeNames(self._graph)
        self._copies: dict[tuple[str, int], str] = {}
        """Name of a tensor in another type than its own."""
        self._nodes: list[NodeProto] = []

    def run(self) -> onnx.ModelProto:
        """Return the converted graph."""
        for value in self._graph.input:
            if self._types[value.name] == FLOAT and value.name not in self._float32_names:
                value.type.tensor_type.elem_type = self._types[value.name] = FLOAT16
        outputs = {value.name: self._output_type(value) for value in self._graph.output}
        for node in self._graph.node:
            self._convert(node, outputs)
        self._drop_unread_constants(set(outputs))
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        return self._model

    def _output_type(self, value: onnx.ValueInfoProto) -> int:
        """Return the type that an output of the graph gets, and set it."""
        kind = value.type.tensor_type
        if kind.elem_type == FLOAT and value.name not in self._float32_names:
            kind.elem_type = FLOAT16
        return int(kind.elem_type)

    def _convert(self, node: NodeProto, outputs: dict[str, int]) -> None:
        """Append a node in float16, or in float32 where it has to be, with the Casts that it needs."""
        schema = onnx.defs.get_schema(node.op_type, self._opset)
        half_types = self._half_types(node, schema)
        for index, (name, formal) in enumerate(_pair(node.input, schema.inputs)):
            if self._is_float(name):
                node.input[index] = self._typed(name, FLOAT16 if formal.type_str in half_types else FLOAT)
        is_half = False
        renamed = []
        for index, (name, formal) in enumerate(_pair(node.output, schema.outputs)):
            if not self._is_float(name):
                continue
            made = FLOAT16 if formal.type_str in half_types else FLOAT
            is_half |= made == FLOAT16
            self._types[name] = made
            if name in outputs and outputs[name] != made:  # the output keeps its name, and is cast
                node.output[index] = self._free_name(f"{name}_{'half' if made == FLOAT16 else 'float'}")
                self._types[node.output[index]], self._types[name] = made, outputs[name]
                self._copies[name, made] = node.output[index]
                renamed.append((node.output[index], name))
        if is_half:
            _set_float16_attributes(node)
        self._nodes.append(node)
        for source, name in renamed:
            self._nodes.append(_cast(source, name, self._types[name], self._free_name(f"{name}_cast")))

    def _is_float(self, name: str) -> bool:
        return bool(name) and self._types.get(name) in (FLOAT, FLOAT16)

    def _half_types(self, node: NodeProto, schema: onnx.defs.OpSchema) -> set[str]:
        """Return the type variables of a node that stand for float32 in the graph, and for float16 now."""
        constant_floats = {"value_float", "value_floats"} & {a.name for a in node.attribute}
        if node.name in self._float32_nodes or constant_floats:
            return set()
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        if any(kind.startswith("seq(") for kinds in allowed.values() for kind in kinds):
            return set()
        slots = [*_pair(node.input, schema.inputs), *_pair(node.output, schema.outputs)]
        bound = {formal.type_str for name, formal in slots if self._is_float(name)}
        return {variable for variable in bound if "tensor(float16)" in allowed.get(variable, ())}

    def _typed(self, name: str, wanted: int) -> str:
        """Return the name of a tensor in a type; constants are copied, other tensors are cast."""
        if self._types[name] == wanted:
            return name
        if (name, wanted) not in self._copies:
            copy = self._free_name(f"{name}_{'half' if wanted == FLOAT16 else 'float'}")
            if name in self._constants and wanted == FLOAT16:
                self._add_constant(name, copy)
            else:
                self._nodes.append(_cast(name, copy, wanted, self._free_name(f"{copy}_cast")))
            self._copies[name, wanted] = copy
        return self._copies[name, wanted]

    def _add_constant(self, name: str, copy: str) -> None:
        tensor = self._graph.initializer.add()
        tensor.CopyFrom(self._constants[name])
        tensor.name = copy
        _round_tensor(tensor)

    def _drop_unread_constants(self, outputs: set[str]) -> None:
        """Remove each constant whose copy is read in all places; the copy gets its name."""
        read = {name for node in self._nodes for name in node.input} | outputs
        unread = self._constants.keys() - read
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name in unread]:
            self._graph.initializer.remove(tensor)
        renamed = {copy: name for (name, _), copy in self._copies.items() if name in unread}
        for tensor in self._graph.initializer:
            tensor.name = renamed.get(tensor.name, tensor.name)
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _infer_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of each tensor."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return types | {value.name: value.type.tensor_type.elem_type for value in graph.input}


def _pair(
    names: Sequence[str], formals: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> Iterator[tuple[str, onnx.defs.OpSchema.FormalParameter]]:
    """Yield the inputs or outputs of a node with their parameters; the last parameter may take several."""
    for index, name in enumerate(names):
        yield name, formals[min(index, len(formals) - 1)]


def _set_float16_attributes(node: NodeProto) -> None:
    """Let the attributes of a node that state a type or hold a tensor be of float16."""
    for attribute in node.attribute:
        if attribute.name in TYPE_ATTRIBUTES and attribute.i == FLOAT:
            attribute.i = FLOAT16
        elif attribute.HasField("t"):
            _round_tensor(attribute.t)
    names = {attribute.name for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and "value" not in names:
        node.attribute.append(helper.make_attribute("value", helper.make_tensor("value", FLOAT16, [1], [0])))
    if node.op_type in FLOAT_BY_DEFAULT and "dtype" not in names:
        node.attribute.append(helper.make_attribute("dtype", FLOAT16))


def _round_tensor(tensor: TensorProto) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning for each weight that float16 rounds to 0
        convert_tensor_float_to_float16(tensor, max_finite_val=FP16_MAX)  # its default clips at 10,000


def _cast(source: str, target: str, kind: int, name: str) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name, to=kind)


def float_outputs(model: onnx.ModelProto, feeder: InputFeeder) -> list[str]:
    """Return the outputs that stay float32 in an fp16 graph: all except states."""
    states = {state.output for state in feeder.states}
    return [output.name for output in model.graph.output if output.name not in states]
