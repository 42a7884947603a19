"""Canonical cpio archives: the container of SWUpdate, in the "crc" format of cpio(5), in one encoding.

Each member is a header of 110 characters ("070702" and 13 numbers of 8 hex digits), its name with a
terminating zero, and its data. Name and data are padded with zeros to 4 bytes. A member "TRAILER!!!" ends
the archive, padded to 512 bytes. Fields that readers ignore (inode, owner, times, padding) have one fixed
value, and the reader rejects any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from edge.core.errors import InputError

BLOCK_BYTES = 1 << 18
MAX_MEMBER_BYTES = 1 << 30
_HEADER_BYTES = 110
_TRAILER_NAME = "TRAILER!!!"
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""No folders, no leading dot, and no character with a meaning for a file system or terminal."""


def validate_member_name(name: str) -> str:
    """Return the name of a member if it is a plain file name.

    Raises:
        InputError: The name has folders or other characters, or is longer than 100 characters.
    """
    if not _MEMBER_NAME.fullmatch(name) or name == _TRAILER_NAME:
        raise InputError(
            f"{name[:120]!r} cannot be in a bundle; expected a plain file name of at most 100 of "
            "A-Z a-z 0-9 . _ + - that starts with a letter or digit"
        )
    return name


def size_and_checksum(blocks: Iterable[bytes]) -> tuple[int, int]:
    """Return the size in bytes and the checksum of a member's data: the sum of all bytes modulo 2^32."""
    size = checksum = 0
    for block in blocks:
        size += len(block)
        checksum = _add_to_checksum(checksum, block)
    return size, checksum


def _add_to_checksum(checksum: int, block: bytes) -> int:
    return (checksum + int(np.frombuffer(block, np.uint8).sum(dtype=np.uint64))) & 0xFFFFFFFF


def encode_header(index: int, name: str, size: int, checksum: int) -> bytes:
    """Return the header, name and padding that precede the data of a member.

    Args:
        index: Position of the member, from 1; 0 for the trailer.
        name: Name of the member.
        size: Bytes of data.
        checksum: Checksum of the data.
    """
    mode, links = (0o100644, 1) if index else (0, 1)
    numbers = (index, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name) + 1, checksum)
    text = b"070702" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return text + bytes(-len(text) % 4)


def encode_trailer(offset: int) -> bytes:
    """Return the end of an archive; `offset` is the number of bytes before it."""
    trailer = encode_header(0, _TRAILER_NAME, 0, 0)
    return trailer + bytes(-(offset + len(trailer)) % 512)


@dataclass
class ArchiveMember:
    """Member of an archive that is being read. Its data must be read to the end before the next member.

    Attributes:
        name: Name of the member.
        size: Bytes of data.
        reader: The reader that returned it.
        checksum: The checksum in its header.
    """

    name: str
    size: int
    reader: ArchiveReader
    checksum: int

    def blocks(self) -> Iterator[bytes]:
        """Yield the data in blocks.

        Raises:
            InputError: The archive ends within the data, or the checksum or the padding is wrong.
        """
        remaining, checksum = self.size, 0
        while remaining:
            block = self.reader.read_exactly(min(BLOCK_BYTES, remaining))
            remaining -= len(block)
            checksum = _add_to_checksum(checksum, block)
            yield block
        if checksum != self.checksum:
            raise InputError(f"{self.reader.label}: the checksum of {self.name} is wrong: it was damaged")
        self.reader.expect_bytes(bytes(-self.size % 4))

    def read(self, max_bytes: int) -> bytes:
        """Return all data of a member that has at most `max_bytes`.

        Raises:
            InputError: The member is larger, or `blocks` raises it.
        """
        if self.size > max_bytes:
            raise InputError(
                f"{self.reader.label}: {self.name} has {self.size} bytes; expected at most {max_bytes}"
            )
        return b"".join(self.blocks())


class ArchiveReader:
    """Sequential reader of a canonical archive.

    Args:
        file: The archive, read once from its start.
        label: What errors call the archive.
    """

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file = file
        self._index = 0
        self._offset = 0
        self.label = label

    def next_member(self, *names: str) -> ArchiveMember:
        """Return the next member, which must have one of these names.

        The names must differ in length: the header gives the length before the name is read.

        Raises:
            InputError: The next member has another name, is too large, or its header is not canonical.
        """
        self._index += 1
        start = self.read_exactly(_HEADER_BYTES)
        if not re.fullmatch(b"070702[0-9A-F]{104}", start):
            raise InputError(
                f"{self.label} is not an aerogaze bundle, or damaged: no cpio header where "
                f"{names[-1]} should start"
            )
        size, name_length, checksum = (int(start[at : at + 8], 16) for at in (54, 94, 102))
        name = next((name for name in names if len(name) + 1 == name_length), names[-1])
        if size > MAX_MEMBER_BYTES:
            raise InputError(f"{self.label}: {name} has {size} bytes; expected at most {MAX_MEMBER_BYTES}")
        expected = encode_header(self._index, name, size, checksum)
        if start != expected[:_HEADER_BYTES]:
            raise InputError(
                f"{self.label}: the header of {name} is not as aerogaze writes it: it was changed"
            )
        self.expect_bytes(expected[_HEADER_BYTES:])
        return ArchiveMember(name, size, self, checksum)

    def expect_end(self) -> None:
        """Check that the archive ends here.

        Raises:
            InputError: The trailer is missing or not canonical, or data follows it.
        """
        self.expect_bytes(encode_trailer(self._offset))
        if self._file.read(1):
            raise InputError(f"{self.label} continues after its end: it was changed")

    def read_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes.

        Raises:
            InputError: The archive ends before.
        """
        data = self._file.read(size)
        if len(data) < size:
            raise InputError(
                f"{self.label} ends too early, after {self._offset + len(data)} bytes: copy the whole file"
            )
        self._offset += size
        return data

    def expect_bytes(self, data: bytes) -> None:
        """Read on, and check that exactly these bytes come next.

        Raises:
            InputError: The archive has other bytes there.
        """
        offset = self._offset
        if self.read_exactly(len(data)) != data:
            raise InputError(
                f"{self.label} is not as aerogaze writes it, at byte {offset} or after: it was changed"
            )
