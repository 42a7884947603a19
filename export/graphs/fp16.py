"""fp16 by casts in the graph: frames and maps stay float32, all between and the states float16."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from calibration.quantization.fp16_emulation import GREATEST
from calibration.quantization.qdq import sort
from edge.core.errors import InputError


def to_fp16(model: onnx.ModelProto, kept: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in float16; inputs and outputs named in `kept` stay float32.

    Works on plain graphs and on those with Q/DQ (opset 19 and above), whose unquantised part and
    scales become float16. Operators that know no float16 stay in float32.

    Raises:
        InputError: the graph cannot be converted.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weights below float16's least value are told one by one
            half: onnx.ModelProto = convert_float_to_float16(
                copied,
                max_finite_val=GREATEST,  # else constants are clipped at 10,000
                keep_io_types=list(kept),
                op_block_list=_float_only(model),
            )
        sort(half.graph)
        onnx.checker.check_model(half, full_check=True)
    except Exception as error:  # its exceptions share no base of their own
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the graph cannot be turned to float16 ({reason}); expected operators that know it"
        ) from None
    return half


def _float_only(model: onnx.ModelProto) -> list[str]:
    """Return the operators in the graph that float16 is no type of, such as Range."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    found = set()
    for node in model.graph.node:
        schema = onnx.defs.get_schema(node.op_type, opset)
        kinds = {kind for constraint in schema.type_constraints for kind in constraint.allowed_type_strs}
        if "tensor(float)" in kinds and "tensor(float16)" not in kinds:
            found.add(node.op_type)
    return sorted(found)
