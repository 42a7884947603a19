"""A look at the weights in an ONNX file, without the onnx package: a drone has none.

An engine may swallow a NaN (an integer convolution turns a NaN scale into a dead channel), so that no map
ever shows it. The few fields read here are those of onnx.proto: ModelProto.graph (7),
GraphProto.initializer (5), TensorProto.data_type (2), float_data (4), name (8), raw_data (9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.core.errors import InputError
from edge.core.protobuf_wire import iter_fields

_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


def check_finite(path: Path) -> None:
    """See that every floating-point weight of an ONNX file is a number.

    Raises:
        InputError: one is not (named), or the file is no protobuf message.
    """
    try:
        for number, graph in iter_fields(memoryview(path.read_bytes())):
            for inner, tensor in iter_fields(graph) if number == 7 and isinstance(graph, memoryview) else ():
                if inner == 5 and isinstance(tensor, memoryview):
                    _check_tensor(path, tensor)
    except (ValueError, IndexError):
        raise InputError(f"{path} is no ONNX file: export it again") from None


def _check_tensor(path: Path, tensor: memoryview) -> None:
    found = dict(iter_fields(tensor))
    kind, data = found.get(2), found.get(9, found.get(4))
    if not isinstance(kind, int) or kind not in _FLOATS or not isinstance(data, memoryview):
        return
    if not np.isfinite(np.frombuffer(data, _FLOATS[kind])).all():
        name = bytes(found.get(8, b"")).decode(errors="replace")
        raise InputError(
            f"{path}: weight {name} is not finite; do not fly it: export it again from a sound student"
        )
