"""ROS 1 bags without an index, such as those of a recorder that was killed, read from their start.

The format is that of http://wiki.ros.org/Bags/Format/2.0. Chunks that were cut off or damaged are left out.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.core.errors import InputError
from edge.core.foreign_text import printable
from edge.sources.bags.storage import BagTopic, Messages

_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7
"""Operations of the records that matter."""
_MAGIC_BYTES = len(b"#ROSBAG V2.0\n")
MAX_RECORD_BYTES = 1 << 30

Record = tuple[dict[bytes, bytes], bytes]
"""Header fields and data of a record."""
_Place = tuple[int, int, int]
"""Time of a message in nanoseconds, position of its chunk in the file, and its number in the chunk."""


class ScannedRos1Storage:
    """A ROS 1 bag whose index cannot be read.

    Args:
        path: The file.
        reason: Why it cannot be read by its index.

    Raises:
        InputError: There is no whole message.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.damage: list[str] = []
        self._file, self._path = path.open("rb"), path
        self._connections: dict[int, tuple[str, str]] = {}
        self._places: dict[str, list[_Place]] = {}
        self._loaded: tuple[int, list[Record]] = (-1, [])
        lost = self._index()
        if not self._places:
            self._file.close()
            raise InputError(f"{path} has no whole message ({reason}); expected a ROS 1 bag: copy it again")
        types = dict(self._connections.values())
        self.topics = {
            topic: BagTopic(topic, types[topic], "ros1", len(places))
            for topic, places in self._places.items()
        }
        left_out = f", {lost} of its chunks cannot be read" if lost else ""
        self.damage.append(f"{printable(path.name)} was read without its index ({reason}){left_out}")

    def _index(self) -> int:
        """Find all messages; return the number of chunks that cannot be read."""
        size, position, lost = self._path.stat().st_size, _MAGIC_BYTES, 0
        while position < size:
            record = self._read_record(position)
            if record is None:
                return lost + 1
            fields, data, end = record
            operation = _operation(fields)
            try:
                if operation == _CONNECTION:
                    self._add_connection((fields, data))
                elif operation == _CHUNK:
                    self._index_chunk(position, list(_split_records(_decompress(fields, data))))
            except (ValueError, OSError, RuntimeError, EOFError, KeyError, struct.error):
                lost += 1
            position = end
        return lost

    def _index_chunk(self, position: int, records: list[Record]) -> None:
        for number, (fields, data) in enumerate(records):
            operation = _operation(fields)
            if operation == _CONNECTION:
                self._add_connection((fields, data))
            elif operation == _MESSAGE:
                topic, _ = self._connections[_number(fields[b"conn"])]
                seconds, nanoseconds = struct.unpack("<II", fields[b"time"])
                place = seconds * 10**9 + nanoseconds, position, number
                self._places.setdefault(topic, []).append(place)

    def _add_connection(self, record: Record) -> None:
        fields, data = record
        type_ = _parse_fields(data)[b"type"].decode()
        self._connections[_number(fields[b"conn"])] = fields[b"topic"].decode(), type_

    def _read_record(self, position: int) -> tuple[dict[bytes, bytes], bytes, int] | None:
        """Return fields, data and end of the record at a position; None if it is cut off or none."""
        self._file.seek(position)
        try:
            fields = _parse_fields(self._read_block())
            data = self._read_block()
        except (ValueError, struct.error):
            return None
        return fields, data, self._file.tell()

    def _read_block(self) -> bytes:
        length = _number(self._file.read(4))
        if length > MAX_RECORD_BYTES:
            raise ValueError("no record")
        block = self._file.read(length)
        if len(block) < length:
            raise ValueError("cut off")
        return block

    def messages(self, topic: str, start_ns: int = 0) -> Messages:
        """Yield the messages of a topic."""
        for time_ns, position, number in sorted(self._places[topic]):
            if time_ns < start_ns:
                continue
            if self._loaded[0] != position:
                record = self._read_record(position)
                assert record is not None  # it was read before
                self._loaded = position, list(_split_records(_decompress(*record[:2])))
            yield time_ns, self._loaded[1][number][1]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _decompress(fields: dict[bytes, bytes], data: bytes) -> bytes:
    from lz4.frame import decompress

    decompressors: dict[bytes, Callable[[bytes], bytes]] = {
        b"none": bytes,
        b"bz2": bz2.decompress,
        b"lz4": decompress,
    }
    return decompressors[fields[b"compression"]](data)


def _split_records(data: bytes) -> Iterator[Record]:
    """Yield the records of a chunk."""
    offset = 0
    while offset < len(data):
        blocks = []
        for _ in range(2):
            length = _number(data[offset : offset + 4])
            blocks.append(data[offset + 4 : offset + 4 + length])
            offset += 4 + length
        if offset > len(data):
            raise ValueError("cut off")
        yield _parse_fields(blocks[0]), blocks[1]


def _parse_fields(header: bytes) -> dict[bytes, bytes]:
    fields, offset = {}, 0
    while offset < len(header):
        length = _number(header[offset : offset + 4])
        name, separator, value = header[offset + 4 : offset + 4 + length].partition(b"=")
        if not separator or offset + 4 + length > len(header):
            raise ValueError("no header")
        fields[name] = value
        offset += 4 + length
    return fields


def _operation(fields: dict[bytes, bytes]) -> int:
    return int.from_bytes(fields.get(b"op", b""), "little")


def _number(data: bytes) -> int:
    return int(struct.unpack("<I", data)[0])
