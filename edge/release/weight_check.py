"""Check of the weights in an ONNX file without the onnx package, which is not installed on drones.

An engine may hide a NaN: an integer convolution turns a NaN scale into a dead channel, so no map shows it.
The fields read here are those of onnx.proto: ModelProto.graph (7), GraphProto.initializer (5),
TensorProto.data_type (2), float_data (4), name (8), raw_data (9).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.core.protobuf_wire import iter_fields

_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}

MAX_NAME_CHARS = 200


def check_finite(path: Path) -> None:
    """Check that all floating-point weights of an ONNX file are finite.

    Raises:
        InputError: A weight is not finite, or the file is not a protobuf message.
    """
    try:
        for number, graph in iter_fields(memoryview(path.read_bytes())):
            for inner, tensor in iter_fields(graph) if number == 7 and isinstance(graph, memoryview) else ():
                if inner == 5 and isinstance(tensor, memoryview):
                    _check_tensor(path, tensor)
    except (ValueError, IndexError):
        raise InputError(f"{path} is not an ONNX file: export it again") from None


def _check_tensor(path: Path, tensor: memoryview) -> None:
    values = dict(iter_fields(tensor))
    kind, data = values.get(2), values.get(9, values.get(4))
    if not isinstance(kind, int) or kind not in _FLOATS or not isinstance(data, memoryview):
        return
    if not np.isfinite(np.frombuffer(data, _FLOATS[kind])).all():
        name_data = values.get(8, b"")
        name_text = "" if isinstance(name_data, int) else bytes(name_data).decode(errors="replace")
        name = printable(name_text, MAX_NAME_CHARS)
        raise InputError(
            f"{path}: weight {name} is not finite; do not fly it: export it again from a sound student"
        )
