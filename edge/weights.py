"""A look at the weights in an ONNX file, without the onnx package: a drone has none.

An engine may swallow a NaN (an integer convolution turns a NaN scale into a dead channel), so that no map
ever shows it. The few fields read here are those of onnx.proto: ModelProto.graph (7),
GraphProto.initializer (5), TensorProto.data_type (2), float_data (4), name (8), raw_data (9).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import InputError

_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_FIXED = {1: 8, 5: 4}
"""Bytes of protobuf's fixed wire types; 0 is a varint, 2 has a length before it."""


def check_finite(path: Path) -> None:
    """See that every floating-point weight of an ONNX file is a number.

    Raises:
        InputError: one is not (named), or the file is no protobuf message.
    """
    try:
        for number, graph in _fields(memoryview(path.read_bytes())):
            for inner, tensor in _fields(graph) if number == 7 and isinstance(graph, memoryview) else ():
                if inner == 5 and isinstance(tensor, memoryview):
                    _check_tensor(path, tensor)
    except (ValueError, IndexError):
        raise InputError(f"{path} is no ONNX file: export it again") from None


def _check_tensor(path: Path, tensor: memoryview) -> None:
    fields = dict(_fields(tensor))
    kind, data = fields.get(2), fields.get(9, fields.get(4))
    if not isinstance(kind, int) or kind not in _FLOATS or not isinstance(data, memoryview):
        return
    if not np.isfinite(np.frombuffer(data, _FLOATS[kind])).all():
        name = bytes(fields.get(8, b"")).decode(errors="replace")
        raise InputError(
            f"{path}: weight {name} is not finite; do not fly it: export it again from a sound student"
        )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        else:
            length = _FIXED.get(kind, -1)
        if length < 0 or at + length > len(message):
            raise ValueError("not a protobuf message")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
