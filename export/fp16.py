"""fp16 by casts in the graph: frames and maps stay float32, all between and the states float16."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from calibration.qdq import sort


def to_fp16(model: onnx.ModelProto, kept: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in float16; inputs and outputs named in `kept` stay float32.

    Works on plain graphs and on those with Q/DQ (opset 19 and above), whose unquantised part and
    scales become float16.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights below float16's least value are told one by one
        half: onnx.ModelProto = convert_float_to_float16(copied, keep_io_types=list(kept), op_block_list=[])
    sort(half.graph)
    onnx.checker.check_model(half, full_check=True)
    return half
