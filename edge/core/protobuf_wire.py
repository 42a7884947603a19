"""Minimal reader and writer of the protobuf wire format, since the runtime does not need the onnx package."""

from __future__ import annotations

from collections.abc import Iterator

_FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of the fixed-size wire types. Type 0 is a varint; type 2 has a length prefix."""

MAX_VARINT_BITS = 70
"""A number of 64 bits takes at most 10 bytes of 7 bits each."""


def iter_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message.

    Raises:
        ValueError, IndexError: The bytes are no protobuf message.
    """
    offset = 0
    while offset < len(message):
        key, offset = _read_varint(message, offset)
        wire_type = key & 7
        if wire_type == 0:
            value, offset = _read_varint(message, offset)
            yield key >> 3, value
            continue
        if wire_type == 2:
            length, offset = _read_varint(message, offset)
        else:
            length = _FIXED_SIZES.get(wire_type, -1)
        if length < 0 or offset + length > len(message):
            raise ValueError("not a protobuf message")
        yield key >> 3, message[offset : offset + length]
        offset += length


def iter_varints(packed: memoryview) -> Iterator[int]:
    """Yield the numbers of a packed repeated field."""
    offset = 0
    while offset < len(packed):
        value, offset = _read_varint(packed, offset)
        yield value


def encode_field(number: int, value: int | bytes | str) -> bytes:
    """Return a field of a protobuf message: a number, or a text, bytes or an encoded message."""
    if isinstance(value, int):
        return _encode_varint(number << 3) + _encode_varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _encode_varint(number << 3 | 2) + _encode_varint(len(data)) + data


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(message: memoryview, offset: int) -> tuple[int, int]:
    """Return the value at an offset and the offset behind it."""
    value = shift = 0
    while shift < MAX_VARINT_BITS:
        byte = message[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 128:
            return value, offset
    raise ValueError("a number without an end")
